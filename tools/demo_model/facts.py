# ruff: noqa: C408 - slots read best as keywords
"""Exchanges about the facts of the demo world."""

from __future__ import annotations

from .knowledge import FACTS
from .names import invented
from .nature import (
    ANIMALS,
    COLOURED,
    DAYS,
    FLYERS,
    MIXES,
    MONTH_DAYS,
    MONTHS,
    NON_FLYERS,
    OPPOSITES,
    ORDINALS,
    PLANET_FACTS,
    PLANETS,
    SEASON_FACTS,
    SWIMMERS,
)
from .things import THINGS, TRANSLATIONS, UNCOUNTABLE
from .writer import Turn, Writer, article, listed


def animal(w: Writer) -> list[Turn]:
    a = w.choice(ANIMALS)
    kinds: list[Turn] = []
    one, many = article(a.name), a.plural
    slots = dict(one=one, many=many, name=a.name)
    if a.sound != "-":
        kinds.append(Turn(
            w.ask("what [sound|noise] [does {one}|do {many}] make", "[how does {one} sound|how do {many} sound]",
                  "what does {one} say", "what do {many} say", "which sound do {many} make", "{name} sound",
                  "[what is|what's] the sound of {one}", "how do {many} talk", "make the sound of {one}", **slots),
            w.say("{Many} {a.sound}.", Many=many, a=a), a.sound))  # fmt: skip
    if a.legs != "-":
        legs = "no" if a.legs == "0" else a.legs
        kinds.append(Turn(
            w.ask("how many legs [does {one}|do {many}] have", "how many legs has {one}",
                "how many legs [are on|does] [a|one|the|your|this|my] {name}[ have|]", "number of legs of {one}",
                  "how many legs are there on {one}", "do {many} have legs[ and how many|]",
                  "{name} legs[ how many|]",
                  "count the legs of {one}", "[what is|what's] the number of legs of {one}", **slots),
            w.say("{one} has {legs} legs.", one=one, legs=legs), legs + " legs"))  # fmt: skip
    if a.baby != "-":
        kinds.append(Turn(
            w.ask("what is a baby {name} called", "what do you call a baby {name}",
                "[what is|what's] the baby of {one} called",
                  "[what's|what is] the name for a baby {name}", "how do you call the young of {one}",
                  "what are baby {many} called", "what is a young {name} called", "baby {name}[ name|]",
                  "[name|word] [of|for] a [baby|young] {name}", "how is a [baby|young] {name} called",
                  "a [baby|young|little] {name} is called what", **slots),
            w.say("A baby {name} is called {baby}.", name=a.name, baby=article(a.baby)), a.baby))  # fmt: skip
    kinds.append(Turn(
        w.ask("what [does {one}|do {many}] eat", "what [do {many}|does {one}] like to eat",
            "what is the food of {one}",
              "what food do {many} eat", "what should i feed {one}", "what do {many} feed on", "{name} food",
              "tell me what {many} eat", **slots),
        w.say("{many} eat {food}.", many=many, food=a.food), a.food.split()[0].rstrip(",")))  # fmt: skip
    kinds.append(Turn(
        w.ask("where [does {one}|do {many}] live", "where can [i|you|we] find {many}",
            "[what is|what's] the home of {one}",
              "in what place do {many} live", "where are {many} found", "tell me where {many} live", **slots),
        w.say("{many} live {home}.", many=many, home=a.home), a.home.split(",")[0]))  # fmt: skip
    kinds.append(Turn(
        w.ask("what kind of animal is {one}", "[what is|what's] {one}", "what type of animal is {one}",
            "what are {many}",
              "[what|which] [group|class|family] of animals [does {one} belong to|is {one} in]",
              "to [what|which] group of animals [does {one}|do {many}] belong", "tell me what {one} is",
              "what sort of animal is {one}",
              "define {name}", "{name}", **slots),
        w.say("{one} is {kind}. {many} live {home}.", one=one, kind=article(a.kind), many=many.capitalize(),
            home=a.home),
        a.kind))  # fmt: skip
    kinds.append(Turn(
        w.ask("tell me [something |a fact |more |]about {many}", "what do you know about {many}", "describe {one}",
              "tell me about the {name}", "give me a fact about {many}", "[say something|talk] about {many}",
              "i want to learn about {many}", "can you tell me about {many}", mark=w.choice("?.."), **slots),
        w.say("{one} is {kind}. {Many} live {home}, and they eat {food}.", one=one, kind=article(a.kind),
              Many=many.capitalize(), home=a.home, food=a.food), a.kind))  # fmt: skip
    return [w.choice(kinds)] if w.chance(0.7) or len(kinds) < 2 else w.rng.sample(kinds, 2)


def animal_check(w: Writer) -> list[Turn]:
    a = w.choice(ANIMALS)
    dice = w.rng.random()
    if dice < 0.55:
        kind = a.kind if w.chance(0.5) else w.choice(["mammal", "bird", "fish", "reptile", "insect", "amphibian"])
        user = w.ask("is {one} {kind}", "are {many} {kinds}", "{one} is {kind}[, right|, isn't it|]",
            "is the {name} {kind}",
                     one=article(a.name), kind=article(kind), many=a.plural, name=a.name,
                     kinds=kind if kind == "fish" else kind + "s")  # fmt: skip
        if kind == a.kind:
            return [Turn(user, w.say("Yes, {one} is {kind}.", one=article(a.name), kind=article(kind)), "Yes")]
        return [Turn(user, w.say("No, {one} is {kind}.", one=article(a.name), kind=article(a.kind)), f"No, .*{a.kind}")]
    if dice < 0.8:
        name = w.choice(sorted(FLYERS | NON_FLYERS))
        user = w.ask("can {one} fly", "is {one} able to fly", "does {one} fly", one=article(name))
        yes = name in FLYERS
        return [Turn(user, w.say("Yes, {one} can fly." if yes else "No, {one} cannot fly.", one=article(name)),
                     "Yes" if yes else "No")]  # fmt: skip
    name = w.choice(sorted(SWIMMERS))
    return [Turn(w.ask("can {one} swim", "is {one} able to swim", "does {one} swim", one=article(name)),
                 w.say("Yes, {one} can swim.", one=article(name)), "Yes")]  # fmt: skip


def animal_list(w: Writer) -> list[Turn]:
    kind = w.choice(
        ["mammal", "bird", "fish", "reptile", "amphibian", "insect", "farm animal", "wild animal", "animal"]
    )
    pool = {
        "farm animal": ["cow", "horse", "sheep", "goat", "pig", "chicken", "duck", "donkey"],
        "wild animal": ["lion", "tiger", "bear", "wolf", "elephant", "zebra", "giraffe"],
        "animal": [a.name for a in ANIMALS],
    }.get(kind) or [a.name for a in ANIMALS if a.kind == kind]
    count, word = w.choice([(1, "a"), (1, "one"), (2, "two"), (3, "three"), (3, "3"), (3, "some"), (2, "2")])
    count = min(count, len(pool))
    kinds = kind if kind == "fish" else kind + "s"
    if count == 1:
        user = w.ask("name {kind}", "[tell me|give me|say|think of] {kind}", "do you know {kind}",
            "can you name {kind}",
                     kind=article(kind), mark=w.choice("?.."))  # fmt: skip
    else:
        user = w.ask("name {word} {kinds}", "[tell me|give me|list|say] {word} {kinds}",
            "can you name {word} {kinds}",
                     "do you know {word} {kinds}", word=word, kinds=kinds, mark=w.choice("?.."))  # fmt: skip
    picked = w.favoured(pool, count)
    noun = article(kind) if count == 1 else kinds
    answer = listed([article(p) for p in picked]) + (" is " if count == 1 else " are ") + noun + "."
    return [Turn(user, answer[0].upper() + answer[1:], "(?i)" + "|".join(pool))]


def colour(w: Writer) -> list[Turn]:
    if w.chance(0.3):
        one, two, mixed = w.choice(MIXES)
        if w.chance(0.5):
            one, two = two, one
        user = w.ask("what [colo[|u]r |]do you get [when|if] you mix {one} and {two}", "what do {one} and {two} make",
                     "mix {one} and {two}", "what is {one} plus {two}", "{one} and {two} make what",
                     "what happens [when|if] i mix {one} [and|with] {two}",
                     "which colo[|u]r comes from {one} and {two}",
                     "what colo[|u]r do {one} and {two} [give|make]", one=one, two=two)  # fmt: skip
        return [Turn(user, w.say("{one} and {two} make {mixed}.", one=one, two=two, mixed=mixed), mixed)]
    thing, verb, shade = w.choice(COLOURED).split("|")
    asked = thing
    if w.chance(0.15) and " " in thing:
        first, rest = thing.split(" ", 1)
        asked = (
            w.choice(["a fresh", "a normal", "the", "my", "a typical", "your", "a real", "some"]) + " " + rest
            if first in ("a", "an", "the")
            else thing
        )
    user = w.ask("what colo[|u]r is {thing}", "[which|what] colo[|u]r does {thing} have",
        "[what is|what's] the colo[|u]r of {thing}",
                 "[the |]colo[|u]r of {thing}", "[what|which] colo[|u]r [would you say |]is {thing}",
                 "{thing}: [what|which] colo[|u]r", "tell me the colo[|u]r of {thing}",
                 "do you know [what|which] colo[|u]r {thing} [is|has]",
                 thing=asked)  # fmt: skip
    return [Turn(user, w.say("{thing} {verb} {shade}.", thing=thing, verb=verb, shade=shade), shade)]


def planet(w: Writer) -> list[Turn]:
    i = w.rng.randrange(8)
    name = PLANETS[i]
    dice = w.rng.random()
    if dice < 0.35:
        user = w.ask("what is {p}", "tell me [something |]about {p}", "what do you know about {p}",
            "which planet is {p}",
                     "what kind of planet is {p}", "describe {p}", "is {p} a planet", p=name)  # fmt: skip
        return [Turn(user, PLANET_FACTS[name], PLANET_FACTS[name][:-1])]
    if dice < 0.6:
        user = w.ask("which is the {nth} planet[ from the sun|]", "what is the {nth} planet[ from the sun|]",
            "the {nth} planet",
                     "which planet is [the {nth} one|{nth}|number {n}]", nth=ORDINALS[i], n=i + 1)  # fmt: skip
        return [Turn(user, w.say("The {nth} planet from the Sun is {p}.", nth=ORDINALS[i], p=name), name)]
    if dice < 0.8 and i < 7:
        user = w.ask(
            "which planet comes after {p}", "what planet is [after|next to] {p}", "what comes after {p}", p=name
        )
        return [Turn(user, w.say("The planet after {p} is {q}.", p=name, q=PLANETS[i + 1]), PLANETS[i + 1])]
    if i == 0:
        i, name = 1, PLANETS[1]
    user = w.ask("which planet comes before {p}", "what planet is before {p}", "what comes before {p}", p=name)
    return [Turn(user, w.say("The planet before {p} is {q}.", p=name, q=PLANETS[i - 1]), PLANETS[i - 1])]


def calendar(w: Writer) -> list[Turn]:
    cycle, noun = w.choice([(DAYS, "day"), (MONTHS, "month")])
    i = w.rng.randrange(len(cycle))
    name = cycle[i]
    dice = w.rng.random()
    if noun == "month" and dice < 0.3:
        user = w.ask("how many days [does {m} have|are [there |]in {m}|has {m}]", "days in {m}", "how long is {m}",
                     "what is the number of days in {m}", m=name)  # fmt: skip
        extra = ", and 29 in a leap year" if name == "February" else ""
        return [Turn(user, w.say("{m} has {n} days" + extra + ".", m=name, n=MONTH_DAYS[i]), str(MONTH_DAYS[i]))]
    if noun == "month" and dice < 0.45:
        user = w.ask("[what|which] is the {nth} month[ of the year|]", "which month is [the {nth}|number {n}]",
                     nth=ORDINALS[i], n=i + 1)  # fmt: skip
        return [Turn(user, w.say("The {nth} month of the year is {m}.", nth=ORDINALS[i], m=name), name)]
    if noun == "month" and dice < 0.5:
        season = w.choice(list(SEASON_FACTS))
        user = w.ask("tell me about {s}", "what is {s}", "what happens in {s}", "what do you know about {s}",
            "describe {s}",
                     s=season)  # fmt: skip
        return [Turn(user, SEASON_FACTS[season], SEASON_FACTS[season][:12])]
    if dice < 0.75:
        other = cycle[(i + 1) % len(cycle)]
        user = w.ask("[what|which] {noun} comes [after|right after|next after] {d}", "what comes after {d}",
                     "what is the {noun} after {d}", "after {d} comes which {noun}", "which {noun} follows {d}",
                     "what follows {d}",
                     "if today is {d}[,|] what [day |]is tomorrow" if noun == "day" else
                     "what is the next month after {d}",
                     noun=noun, d=name)  # fmt: skip
        return [Turn(user, w.say("The {noun} after {d} is {o}.", noun=noun, d=name, o=other), other)]
    other = cycle[i - 1]
    user = w.ask("[what|which] {noun} comes [before|right before|just before] {d}", "what comes before {d}",
                 "what is the {noun} before {d}", "which {noun} is before {d}",
                 "if today is {d}[,|] what [day |]was yesterday" if noun == "day" else
                 "which month do we have before {d}",
                 noun=noun, d=name)  # fmt: skip
    return [Turn(user, w.say("The {noun} before {d} is {o}.", noun=noun, d=name, o=other), other)]


def opposite(w: Writer) -> list[Turn]:
    turns = []
    for grammar in (
        ("[what is|what's|tell me|give me|say|do you know] the opposite of {a}", "opposite of {a}",
            "the opposite of {a}",
         "which word is the opposite of {a}", "what word means the opposite of {a}",
         "what would be the opposite of {a}",
         "[what is|what's] the reverse of {a}", "{a} is the opposite of what"),
        ("and {a}", "and of {a}", "what about {a}", "and the opposite of {a}", "how about {a}", "{a}"),
    ):  # fmt: skip
        a, b = w.choice(OPPOSITES)
        if w.chance(0.45):
            a, b = b, a
        answers = {y if x == a else x for x, y in OPPOSITES if a in (x, y)}
        turns.append(
            Turn(w.ask(*grammar, a=a), w.say("The opposite of {a} is {b}.", a=a, b=b), "|".join(sorted(answers)))
        )
        if w.chance(0.7):
            break
    return turns


def small_fact(w: Writer) -> list[Turn]:
    fact = w.choice(FACTS)
    return [Turn(w.ask(*fact.questions), fact.answer, fact.key)]


def thing(w: Writer) -> list[Turn]:
    name = w.choice(list(THINGS))
    one = name if name in UNCOUNTABLE else article(name)
    user = w.ask("what is {one}", "what's {one}", "what does [the word |]{name} mean", "tell me what {one} is",
        "explain {name}",
                 "what is the meaning of [the word |]{name}", "define {name}", "can you explain what {one} is",
                 "do you know what {one} is", "what do you know about {name}s", "{name}", "what exactly is {one}",
                 one=one, name=name)  # fmt: skip
    return [Turn(user, w.say("{one} is {what}.", one=one, what=THINGS[name]), THINGS[name])]


def translate(w: Writer) -> list[Turn]:
    tongue = w.choice(list(TRANSLATIONS))
    word = w.choice(list(TRANSLATIONS[tongue]))
    answer = TRANSLATIONS[tongue][word]
    if w.chance(0.1):
        tongue = w.choice(
            ["Japanese", "Chinese", "Russian", "Arabic", "Latin", "Klingon", "Swedish", "Polish", invented(w.rng)]
        )
        answer = ""
    user = w.ask("how do you say {word} in {tongue}", "what is {word} in {tongue}", "say {word} in {tongue}",
                 "translate {word} [to|into] {tongue}", "what does one say for {word} in {tongue}",
                 "{word} in {tongue}",
                 "what's the {tongue} word for {word}", "what is the {tongue} word for {word}", word=word,
                 tongue=tongue)  # fmt: skip
    if not answer:
        return [Turn(user, w.say("I am sorry, I do not know {tongue}. I know a few words of French, Spanish, "
        "German, Italian "
                                 "and Dutch.", tongue=tongue), "not know")]  # fmt: skip
    return [Turn(user, w.say('"{word}" in {tongue} is "{answer}".', word=word, tongue=tongue, answer=answer), answer)]


SKILLS = {
    "animal": (6.0, animal),
    "animal_check": (2.0, animal_check),
    "animal_list": (1.0, animal_list),
    "colour": (2.5, colour),
    "planet": (2.0, planet),
    "calendar": (3.0, calendar),
    "opposite": (3.0, opposite),
    "small_fact": (9.0, small_fact),
    "thing": (4.0, thing),
    "translate": (2.0, translate),
}
