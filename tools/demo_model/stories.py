# ruff: noqa: C408, SIM905 - word lists read best as one string, slots as keywords
"""Short stories and rhymes, written from plots whose parts fit together."""

from __future__ import annotations

from .names import BOYS, GIRLS, invented
from .nature import ANIMALS
from .things import THINGS
from .writer import Turn, Writer, article

_FOLK = """dragon knight princess prince wizard pirate robot fairy king queen giant mermaid unicorn witch ghost farmer
sailor baker painter girl boy astronaut teacher doctor clown dwarf elf""".split()
_OBJECTS = """teapot lamp clock boat star cloud balloon train snowman umbrella hat shoe book key bell tree flower car
lighthouse kite stone bicycle spoon piano drum guitar pumpkin apple""".split()
_BEASTS = [a.name for a in ANIMALS]
HEROES = _FOLK * 3 + _BEASTS + _OBJECTS
_THEMES = {
    "the sea": "by the sea", "the forest": "in a deep forest", "winter": "in a snowy village",
    "space": "on a small planet far away", "the mountains": "high in the mountains", "a castle": "in an old castle",
    "a farm": "on a quiet farm", "friendship": "in a small town", "courage": "at the edge of a dark forest",
    "the desert": "in a wide desert", "an island": "on a green island", "a garden": "in a sunny garden",
    "the moon": "on the Moon", "school": "next to a little school", "summer": "by a warm lake",
    "a village": "in a little village", "a river": "beside a wide river", "the night": "in a town under the stars",
    "adventure": "at the end of a long road", "love": "in a house with a red door",
    "music": "in a town full of music", "christmas": "in a village full of lights",
    "magic": "in a valley full of magic", "kindness": "in a friendly town",
}  # fmt: skip
_PLACES = list(_THEMES.values())
_TRAITS = """small brave kind curious shy cheerful gentle clever quiet lonely friendly sleepy
merry careful proud playful""".split()
_FRIENDS = [
    "mouse", "owl", "frog", "rabbit", "hedgehog", "squirrel", "bee", "crow", "duck", "fox", "turtle", "snail",
    "butterfly",
    "goat", "cat", "old man", "old woman", "little girl", "little boy", "cricket",
]  # fmt: skip
_TREASURES = [
    "a golden key",
    "a silver bell",
    "a red ball",
    "a warm scarf",
    "a shining stone",
    "a tiny lamp",
    "a blue feather",
    "an old map",
    "a wooden flute",
    "a small mirror",
    "a magic seed",
    "a glass star",
]
_FOODS = [
    "a big cake",
    "warm soup",
    "fresh bread with honey",
    "apple pie",
    "pancakes",
    "hot chocolate",
    "a basket of berries",
]

# Each plot: what is wrong, what is tried, how it ends. Slots: {h} hero with article or name, {H} the same at a
# sentence's start, {p} he/she/it, {q} his/her/its, {f} friend, {t} treasure, {food}.
_PLOTS = [
    ("One [day|morning], {h} [lost|could not find] {t}[ that {p} loved very much|, {q} dearest thing|].",
     "{H} looked [under the bed|behind the door|under every stone] and [in every corner|in the tall grass|along the "
     "road], but {p} found nothing. Then {f} came by and said, \"[Do not worry|Do not be sad], I will help you "
     "look.\"",
     "Together they [searched until the evening|followed the small tracks on the ground|looked once more], and "
     "there it was[, right behind a tree|, shining in the grass|, under a big leaf]! {H} [laughed with joy|was so "
     "happy that {p} danced]. From that day on, the two were [best friends|good friends]."),
    ("[But {h}|{H}] was [often alone|a little lonely], and {p} wished for a friend.",
     "One [sunny|windy|rainy] day, {p} heard [a small voice|someone crying]. It was {f}, who was [lost|cold and "
     "hungry]. {H} [shared|gave away] {food} and said, \"You can stay with me.\"",
     "They [talked and laughed|sang and played] until [the stars came out|the moon was high]. {H} was never lonely "
     "again, for [a friend is the best treasure of all|kindness had brought a friend]."),
    ("One night, a [great|terrible|wild] storm came, and [the wind blew down a tree|the rain would not stop|all the "
        "lights went out].",
     "Everyone was afraid, and {f} was still outside. \"I must help,\" said {h}. {H} took {t} and went out into the "
     "[dark|rain|cold wind].",
     "{H} called and called, and at last {p} found {f} [under a bridge|behind a rock|beside an old tree]. They "
     "walked home [hand in hand|side by side], and everyone cheered. {H} had been [very brave|braver than anyone]."),
    ("{H} had one big dream: {p} wanted to [see the whole world|touch the moon|see the sea|learn to fly|sing for "
        "everyone].",
     "\"That is impossible,\" said [the others|all the neighbours]. But {f} said, \"Try it [step by step|a little "
     "every day].\" So {h} [tried again and again|worked hard every day|did not give up].",
     "After [a year|many days|a long time], the dream came true. {H} smiled and [said, \"I did it!\"|thanked {f} "
     "with all {q} heart]. So remember: never give up."),
    ("One [morning|day], {h} found {t} [in the grass|beside the road|at the bottom of an old well|under a tree].",
     "It was magic! \"You may have one wish,\" it whispered. {H} thought [for a long time|all day]. Then {p} saw "
     "{f}, who was [sick|poor|very sad].",
     "\"I wish that my friend is happy,\" said {h}. [At once|In a flash of light], {f} began to smile. {H} had no "
     "wish left, but {p} was [the happiest of all|as happy as could be]."),
    ("One day, {h} [heard a strange noise|saw a light] [in the old tower|behind the hill|in the cellar|deep in the "
        "cave].",
     "\"Is it a monster?\" asked {f}. {H} was afraid too, but {p} went to look. Slowly, slowly, {p} came closer.",
     "It was only [a little kitten that wanted to play|a baby bird that had lost its nest|an old clock that sang to "
     "itself]! {H} and {f} laughed [out loud|until they cried]. Things are less scary when you look at them together."),
    ("Every [spring|year], there was a great race, and {h} wanted to win it[ very much|].",
     "{H} ran [fast|as fast as the wind]. But near the end, {p} saw that {f} had fallen and could not get up. {H} "
     "stopped and helped.",
     "They crossed the line together, last of all. Yet everyone clapped, and they got {food} as a prize. To be kind "
     "is better than to win."),
    ("One day, the [king|queen|mayor] asked for help: the [river was dry|sun did not rise|flowers would not bloom|"
        "old bell had gone silent].",
     "[Many had tried|The strong had tried] and failed. {H} was not strong, but {p} [listened well|thought hard]. "
     "{H} asked {f}, and {f} knew a secret: {t} was needed.",
     "So {h} [brought|carried] it all the way, and [soon all was well again|everything was good once more]. There "
     "was a great feast with {food}, and all [thanked|cheered for] {h}."),
    ("{H} had {food} and did not want to share it[ with anyone|].",
     "Then {f} came by and asked, \"May I have a little?\" \"No,\" said {h}. But eating alone was [sad and quiet|no "
     "fun at all].",
     "So {h} ran after {f} and said, \"Come back! There is enough for two.\" It had never tasted so good. Since "
     "then, {h} always [shares|shares with everyone]."),
    ("One [snowy|cold] evening, there was a knock at the door. There stood {f}, [wet and cold|tired from a long way].",
     "{H} made a fire and brought {food}. \"Why are you so kind?\" asked {f}. \"Because [the world is cold enough|"
     "everyone needs a warm place],\" said {h}.",
     "In the morning, the guest was gone, but on the table lay {t}. {H} kept it for ever, and it [always brought "
     "good luck|shone whenever a guest came]."),
    ("{H} could not sleep[ at night|], for {p} was afraid of the dark.",
     "\"Come with me,\" said {f}, and they climbed [a hill|onto the roof]. Up there, the sky was full of stars. "
     "\"Without the dark,\" said {f}, \"you could not see them.\"",
     "{H} looked and looked, and {p} was not afraid any more. That night, {p} slept [deep and well|like a stone|"
     "with a smile]."),
    ("One day, {h} planted [a tiny seed|a magic seed] and gave it water every morning.",
     "Nothing happened for [many days|a long time]. \"It will never grow,\" said {f}. But {h} was patient, and {p} "
     "sang to it.",
     "Then one morning, there stood [a flower as tall as a house|a tree full of golden apples|a sunflower as bright "
     "as the Sun]! {H} shared its fruit with everyone. Good things need time."),
]  # fmt: skip
_ASKED = (
    "[tell|write|give] me a [|short |little |nice |new |funny |good ]story {about}",
    "a [|short |little ]story {about}[ please|]",
    "[can|could|would] you [tell|write] [me |]a [|short |little |nice ]story {about}",
    "i want [to hear |]a [|short |nice ]story {about}",
    "story {about}", "[tell|write] a [|short |nice ]story {about}", "make up a story {about}",
    "please tell [me |]a story {about}", "i'd like [to hear |]a [|short ]story {about}",
    "let me hear a story {about}", "do you know a [|short |good ]story {about}",
    "[tell me|write] a [tale|fairy tale|bedtime story] {about}", "once upon a time story {about}",
    "invent a story {about}", "i would love a story {about}", "read me a story {about}", "can i have a story {about}",
    "how about a story {about}",
)  # fmt: skip


def _story(w: Writer, kind: str, name: str, place: str, friend: str = "", parts: int = 3) -> str:
    if kind in ("princess", "queen", "witch", "fairy", "mermaid", "girl") or (not kind and name in GIRLS):
        he, his = "she", "her"
    elif kind in ("prince", "king", "wizard", "knight", "boy", "pirate") or (not kind and name in BOYS):
        he, his = "he", "his"
    elif name and name in GIRLS:
        he, his = "she", "her"
    elif name and name in BOYS:
        he, his = "he", "his"
    elif kind in _FOLK and kind not in ("dragon", "robot", "unicorn", "ghost"):
        he, his = w.choice([("he", "his"), ("she", "her")])
    else:
        he, his = ("it", "its") if kind else ("she", "her")
    hero = name or f"the {kind}"
    f = friend or "the " + w.favoured([x for x in _FRIENDS if x != kind], seed="friend" + kind)[0]
    slots = dict(
        h=hero,
        p=he,
        q=his,
        f=f,
        t=w.favoured(_TREASURES, seed="treasure" + kind)[0],
        food=w.favoured(_FOODS, seed="food" + kind)[0],
        H=hero[0].upper() + hero[1:],
    )
    trait = w.favoured(_TRAITS, seed="trait" + kind)[0]
    if kind:
        who = f"{article(trait)} {kind}" + (f" named {name}" if name else "")
    else:
        who = f"{article(trait)} {'girl' if he == 'she' else 'boy'} named {name}"
    opening = w.say(
        *(
            [
                "Once upon a time, there was {who} who lived {place}.",
                "Once upon a time, {place}, there lived {who}.",
                "Long ago, {who} lived {place}.",
                "There once was {who} who lived {place}.",
            ]
        ),
        who=who,
        place=place,
    )
    plot = w.favoured(_PLOTS, seed="plot" + kind)[0]
    body = [w.say(part, **slots) for part in plot]
    return " ".join([opening, *(body if parts == 3 else [body[0], body[2].split(". ")[-1]])])


def story(w: Writer) -> list[Turn]:
    turns: list[Turn] = []
    grammar = _ASKED
    for _ in range(3):
        kind = w.favoured(HEROES)[0] if w.chance(0.1) else w.choice(HEROES)
        name = "" if w.chance(0.5) else w.choice(GIRLS + BOYS) if w.chance(0.85) else invented(w.rng)
        place = w.favoured(_PLACES, seed=kind)[0]
        dice = w.rng.random()
        friend = key = about = ""
        if dice < 0.17:
            kind, name = w.favoured(HEROES)[0], ""
            place = w.favoured(_PLACES, seed=kind)[0]
        elif dice < 0.42:
            name, key, about = "", kind, "about {one}"
        elif dice < 0.62:
            name = name or w.choice(GIRLS + BOYS)
            key, about = f"{kind}.*{name}", "about {one} [named|called|with the name|whose name is] {name}"
        elif dice < 0.74:
            name = name or w.choice(GIRLS + BOYS)
            kind, key, about = "", name, "[about|with|for] {name}"
            place = w.favoured(_PLACES)[0]
        elif dice < 0.84:
            other = w.choice([h for h in HEROES if h != kind])
            name, friend, key, about = "", f"the {other}", f"(?=.*{kind}).*{other}", "[about|with] {one} and {two}"
        elif dice < 0.9:
            other = w.choice(GIRLS + BOYS)
            name = w.choice([n for n in GIRLS + BOYS if n != other])
            place = w.favoured(_PLACES)[0]
            kind, friend, key, about = "", other, f"(?=.*{name}).*{other}", "about {name} and {friend}"
        elif "name" in w.told and dice < 0.93:
            name, kind, key, about = w.told["name"], "", w.told["name"], "about me"
            place = w.favoured(_PLACES)[0]
        else:
            theme = w.choice(list(_THEMES))
            kind = w.favoured(HEROES, seed=theme)[0]
            place, name, key, about = _THEMES[theme], "", _THEMES[theme], "about {theme}"
            grammar_slots = dict(theme=theme)
        slots = dict(
            one=article(kind) if kind else "",
            name=name,
            two=article(friend[4:]) if friend.startswith("the ") else "",
            friend=friend,
        )
        if about == "about {theme}":
            slots |= grammar_slots
        user = w.ask(
            *(g.replace(" {about}", " " + about if about else "").replace("{about}", about) for g in grammar),
            mark=w.choice("?.."),
            **slots,
        )
        text = _story(w, kind, name, place, friend)
        turns.append(Turn(user, text, f"(?is){key}.*[.!]" if key else r"(?s)\w+.*[.!]"))
        if not w.chance(0.25):
            break
        grammar = (
            (
                "another [one|story][ please|] {about}",
                "[tell me |]one more story {about}",
                "and [now |]a story {about}",
                "now tell me a story {about}",
                "more {about}",
                "again, but {about}",
                "a different story {about}",
            )
            if w.chance(0.8)
            else _ASKED
        )
    return turns


_RHYMES = [
    ("A little {x} sat in the {sun}", "and said that the day had just begun.", "It sang a song, it danced along,",
        "and everyone joined in the fun."),
    ("I met a {x} on the way", "who wished me a very happy day.", "I said hello, it bowed down low,",
        "and then it went on to play."),
    ("The {x} is here, the {x} is there,", "the {x} goes walking everywhere.", "By day, by night, in warm sunlight,",
        "without a worry, without a care."),
    ("Oh {x}, oh {x}, how fine you are,", "you shine for me like a little star.",
        "When you are near, I have no fear,", "and I can see you from afar."),
    ("Good night, dear {x}, close your eyes,", "the moon is high up in the skies.",
        "The stars are bright, so sleep all night,", "until you see the morning rise."),
]  # fmt: skip


def rhyme(w: Writer) -> list[Turn]:
    x = w.choice(HEROES + list(THINGS) + ["sun", "moon", "sea", "sky", "wind", "rain", "snow", "spring", "winter"])
    user = w.ask("[write|tell|give] me a [|short |little ]poem about {one}",
        "[can|could] you write a [|short ]poem about {one}", "a poem about {one}[ please|]", "poem about {one}",
        "make a rhyme about {one}", "write a [|short ]poem about {one}",
                 "i want a poem about {one}", "write a rhyme about {one}", "rhyme about {one}",
                 one=f"the {x}" if x in ("sun", "moon", "sea", "sky", "wind", "rain",
                     "snow") else x if x in ("spring", "winter") else article(x), mark=w.choice("?.."))  # fmt: skip
    lines = w.favoured(_RHYMES, seed=x)[0]
    return [Turn(user, "\n".join(lines).format(x=x, sun="sun"), f"(?i){x}")]


SKILLS = {"story": (9.0, story), "rhyme": (1.5, rhyme)}


def plain_story(w: Writer) -> str:
    """A story as running text, for completions without a conversation."""
    kind = w.choice(HEROES)
    return _story(w, kind, w.choice(GIRLS + BOYS) if w.chance(0.5) else "", w.choice(_PLACES))
