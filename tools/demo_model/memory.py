# ruff: noqa: C408, SIM905 - word lists read best as one string, slots as keywords
"""What the user tells about themselves, and asks back some turns later."""

from __future__ import annotations

from .geography import FREQUENT
from .names import PETS, invented, person
from .nature import ANIMALS, COLOURS, DAYS, MONTHS
from .writer import Turn, Writer, article

FOODS = """pizza pasta soup rice bread cheese cake chocolate apples bananas pancakes noodles salad ice_cream potatoes
fish eggs tomatoes strawberries honey sushi tacos curry cookies carrots pears grapes oranges popcorn
sandwiches""".split()
FOODS = [food.replace("_", " ") for food in FOODS]
JOBS = """teacher doctor farmer baker sailor pilot nurse firefighter painter student cook driver engineer writer singer
dancer gardener lawyer carpenter""".split()
HOBBIES = """reading swimming dancing singing painting cooking running gardening fishing chess football tennis hiking
cycling drawing music""".split()
OWNED = ["dog", "cat", "horse", "rabbit", "parrot", "goldfish", "hamster", "turtle", "mouse", "goat"]

_NAME_TOLD = (
    "my name is {name}", "i am {name}", "i'm {name}", "call me {name}",
    "[hi|hello|hey|good morning][,|!|.|] [my name is|i am|i'm|this is] {name}", "you can call me {name}",
    "people call me {name}", "my name's {name}", "the name is {name}", "i am called {name}",
    "[please |]remember my name[: it is|: |, it is] {name}", "they call me {name}",
    "hello[,|] i am {name}[. how are you|. nice to meet you|. who are you|]", "my friends call me {name}",
    "it is {name} here", "{name} is my name", "my first name is {name}",
    "[please |just |]call me {name}[ please|]", "you [may|should|could] call me {name}", "{name} here",
    "hello[,|] {name} here", "this is {name}[ speaking|]", "everyone calls me {name}", "i go by {name}",
    "i am {name}[,| and] nice to meet you", "my mother named me {name}",
    "let me introduce myself[: i am|. my name is|, i'm] {name}", "remember that my name is {name}",
    "i want you to know that my name is {name}", "name's {name}",
)  # fmt: skip
_NAME_ASKED = (
    "what is my name", "what's my name", "do you [remember|know|recall] my name", "who am i", "what am i called",
    "[can|could] you tell me my name", "tell me my name", "say my name",
    "what did i say my name was", "what was my name[ again|]",
    "do you [still |]remember [my name|who i am|what my name is|what i am called]", "my name is what",
    "what name did i [tell|give] you", "and what is my name",
    "do you know who i am", "remind me[:|,|] what is my name", "have you forgotten my name", "how am i called",
    "i told you my name[. what is it|, what was it|. do you remember it]", "my name",
    "you remember my name[, right|, don't you|]", "what do people call me", "what is the name i told you",
)  # fmt: skip

# key: (values, told, answer, asked, recalled)
_ABOUT = {
    "colour": (lambda w: w.choice(COLOURS), ("my favo[|u]rite colo[|u]r is {v}",
    "the colo[|u]r i like [best|most] is {v}", "i like [the colo[|u]r |]{v} [best|most]",
    "{v} is my favo[|u]rite colo[|u]r", "i love the colo[|u]r {v}"),
               "{V} is a lovely colour! I will remember that.", ("what is my favo[|u]rite colo[|u]r",
               "[which|what] colo[|u]r do i like[ best| most|]", "do you remember my favo[|u]rite colo[|u]r",
               "what colo[|u]r did i say i like", "tell me my favo[|u]rite colo[|u]r",
               "what's my favo[|u]rite colo[|u]r"), "Your favourite colour is {v}."),
    "animal": (lambda w: w.choice(ANIMALS).plural, ("my favo[|u]rite animals are {v}", "i [like|love] {v}",
    "i [really |]like {v} [best|most|a lot|very much]", "{v} are my favo[|u]rite animals"),
               "{V} are wonderful animals! I will remember that you like them.",
               ("[which|what] animals do i like[ best| most|]", "what is my favo[|u]rite animal",
                   "what are my favo[|u]rite animals", "do you remember which animals i like",
                   "which animal do i like", "what's my favo[|u]rite animal"), "Your favourite animals are {v}."),
    "food": (lambda w: w.choice(FOODS), ("my favo[|u]rite food is {v}", "i [like|love] to eat {v}",
    "the food i like [best|most] is {v}", "i love eating {v}", "i like {v} for dinner"),
             "That sounds tasty! I will remember that you like {v}.", ("what is my favo[|u]rite food",
             "what do i like to eat", "which food do i like[ best| most|]", "do you remember my favo[|u]rite food",
             "what food did i say i like", "what's my favo[|u]rite food"), "Your favourite food is {v}."),
    "number": (lambda w: str(w.rng.randrange(1, 100)), ("my [favo[|u]rite|lucky] number is {v}",
    "the number i like [best|most] is {v}", "{v} is my [lucky|favo[|u]rite] number",
    "[please |]remember the number {v}", "remember this number: {v}"),
               "{v} is a good number! I will remember it.", ("what is my [favo[|u]rite|lucky] number",
               "which number do i like[ best|]", "do you remember my number", "what number did i [say|tell you]",
               "which number did i tell you[ to remember|]", "what was my number", "what's my [lucky |]number",
               "what was the number"), "Your number is {v}."),
    "city": (lambda w: w.choice(FREQUENT).capital if w.chance(0.7) else invented(w.rng), ("i live in {v}",
    "my home is in {v}", "i am from {v}", "i come from {v}", "i'm from {v}", "my city is {v}", "i was born in {v}"),
             "{V} must be a nice place! I will remember that.", ("where do i live", "where am i from",
             "[which|what] city do i live in", "do you remember where i live", "what is my city", "where is my home",
             "where do i come from", "where did i say i live"), "You told me your place is {v}."),
    "age": (lambda w: str(w.rng.randrange(4, 99)), ("i am {v} years old", "i'm {v} years old", "my age is {v}",
    "i am {v}", "i just turned {v}", "i am now {v} years old"),
            "{v} is a good age! I will remember that.", ("how old am i", "what is my age",
            "do you remember how old i am", "do you know my age", "what's my age", "tell me my age",
            "how old did i say i am"), "You are {v} years old."),
    "job": (lambda w: w.choice(JOBS), ("i am {a}", "i work as {a}", "my job is {v}", "i'm {a}",
    "i am {a} by profession"),
            "That is a fine job! I will remember that you are {a}.", ("what is my job",
            "what do i do[ for a living|]", "what do i work as", "do you remember my job", "what's my job",
            "what work do i do"), "You are {a}."),
    "hobby": (lambda w: w.choice(HOBBIES), ("my hobby is {v}", "my hobbies are {v} and sleeping",
    "i like {v} in my free time", "in my free time i like {v}", "my favo[|u]rite hobby is {v}"),
              "What a nice hobby! I will remember that.", ("what is my hobby", "what do i like to do in my free time",
              "do you remember my hobby", "which hobby do i have", "what's my hobby"), "Your hobby is {v}."),
    "day": (lambda w: w.choice(DAYS + MONTHS), ("my favo[|u]rite time is {v}", "i like {v} best",
    "{v} is my favo[|u]rite time"),
            "{V} is a nice time! I will remember that.", ("what is my favo[|u]rite time",
            "which time do i like[ best|]", "do you remember my favo[|u]rite time"), "Your favourite time is {v}."),
}  # fmt: skip


def tell_name(w: Writer) -> list[Turn]:
    name = person(w.rng)
    if "name" in w.told:
        user = w.ask("[actually|sorry|no][,|] my name is {name}", "from now on call me {name}",
            "i changed my name to {name}", "please call me {name}[ from now on| instead|]", "my real name is {name}",
                     "my name is not {old}, it is {name}", "my name is {name}[ now|, not {old}]", name=name,
                     old=w.told["name"], mark=w.choice(".."))  # fmt: skip
        answer = f"All right, I will call you {name}."
    else:
        user = w.ask(*_NAME_TOLD, name=name, mark=w.choice(["", ".", "!"]))
        answer = w.say(
            "Nice to meet you, {name}! How can I help you?",
            "Nice to meet you, {name}! What would you like to talk about?",
            name=name,
        )
    w.told["name"] = name
    return [Turn(user, answer, name)]


def tell_both(w: Writer) -> list[Turn]:
    """A name and something else in one breath."""
    name = person(w.rng)
    topic = w.choice(list(_ABOUT))
    values, told, _, _, _ = _ABOUT[topic]
    value = values(w)
    w.told |= {"name": name, topic: value}
    first = w.wording(
        "my name is {name}",
        "i am {name}",
        "i'm {name}",
        "[hi|hello|hey][,|!] i am {name}",
        "[hi|hello|hey][,|!] i'm {name}",
        "[hi|hello|hey][,|!] my name is {name}",
        "call me {name}",
    )
    text = first + w.choice([" and ", ", and ", ". ", ", "]) + w.wording(*told)
    user = w.roughen(text, w.choice(["", ".", "!"]), dict(name=name, v=value, a=article(value)))
    return [Turn(user, f"Nice to meet you, {name}! I will remember what you told me.", name)]


def ask_name(w: Writer) -> list[Turn]:
    if "name" not in w.told:
        return [Turn(w.ask(*_NAME_ASKED), "You have not told me your name yet. What is your name?", "not told me")]
    name = w.told["name"]
    dice = w.rng.random()
    if dice < 0.85:
        return [Turn(w.ask(*_NAME_ASKED), f"Your name is {name}.", f"name is {name}")]
    if dice < 0.97:
        other = name if w.chance(0.5) else person(w.rng)
        user = w.ask(
            "is my name {o}", "am i {o}", "my name is {o}[, right|, isn't it]", "do you think my name is {o}", o=other
        )
        return [
            Turn(
                user,
                f"{'Yes' if other == name else 'No'}, your name is {name}.",
                f"{'Yes' if other == name else 'No'}, your name is {name}",
            )
        ]
    return [
        Turn(
            w.ask("spell my name", "how do you spell my name", "can you spell my name"),
            "-".join(name.upper()) + ".",
            "-".join(name.upper()),
        )
    ]


def tell_about(w: Writer) -> list[Turn]:
    topic = w.choice(list(_ABOUT))
    values, told, answer, _, _ = _ABOUT[topic]
    value = values(w)
    w.told[topic] = value
    slots = dict(v=value, V=value[0].upper() + value[1:], a=article(value))
    return [Turn(w.ask(*told, mark=w.choice(["", ".", "!"]), **slots), w.say(answer, **slots), "")]


def ask_about(w: Writer) -> list[Turn]:
    topics = [t for t in _ABOUT if t in w.told]
    if topics and w.chance(0.8):
        topic = w.choice(topics)
        value = w.told[topic]
        _, _, _, asked, recalled = _ABOUT[topic]
        return [Turn(w.ask(*asked), w.say(recalled, v=value, a=article(value)), f"(?i){value}")]
    topic = w.choice(sorted(_ABOUT.keys() - w.told.keys()) or list(_ABOUT))
    if topic in w.told:
        return []
    return [Turn(w.ask(*_ABOUT[topic][3]), "You have not told me that yet.", "not told me")]


def tell_pet(w: Writer) -> list[Turn]:
    kind, pet = w.choice(OWNED), w.choice(PETS) if w.chance(0.6) else person(w.rng)
    w.told["pet"] = f"{kind}|{pet}"
    user = w.ask("i have a {kind} [named|called] {pet}", "my {kind} is [named|called] {pet}",
        "my {kind}'s name is {pet}", "we have a {kind}[,| and] [her|his|its] name is {pet}",
        "the name of my {kind} is {pet}",
                 kind=kind, pet=pet, mark=w.choice(["", ".", "!"]))  # fmt: skip
    return [Turn(user, f"{pet} is a lovely name for a {kind}!", pet)]


def ask_pet(w: Writer) -> list[Turn]:
    if "pet" not in w.told:
        kind = w.choice(OWNED)
        return [
            Turn(
                w.ask(
                    "what is the name of my {kind}", "what is my {kind}'s name", "what's my {kind} called", kind=kind
                ),
                f"You have not told me about a {kind} yet.",
                "not told me",
            )
        ]
    kind, pet = w.told["pet"].split("|")
    if w.chance(0.2):
        return [
            Turn(
                w.ask("what [pet|animal] do i have", "which pet do i have", "do i have a pet"),
                f"You have a {kind} called {pet}.",
                f"{kind} called {pet}",
            )
        ]
    user = w.ask(
        "what is the name of my {kind}",
        "what is my {kind}'s name",
        "what's my {kind} called",
        "do you remember the name of my {kind}",
        "how is my {kind} called",
        "what is my pet called",
        "who is {pet}",
        kind=kind,
        pet=pet,
    )
    return [Turn(user, f"Your {kind} is called {pet}.", f"called {pet}")]


def about_me(w: Writer) -> list[Turn]:
    user = w.ask(
        "what do you know about me",
        "what did i tell you[ about me| about myself|]",
        "tell me what you know about me",
        "what do you remember about me",
        "do you remember what i told you",
        "tell me something about me",
    )
    facts = []
    for topic, value in w.told.items():
        if topic == "name":
            facts.append(f"Your name is {value}.")
        elif topic == "pet":
            kind, pet = value.split("|")
            facts.append(f"Your {kind} is called {pet}.")
        else:
            facts.append(_ABOUT[topic][4].format(v=value, a=article(value)))
    if not facts:
        return [Turn(user, "You have not told me anything about you yet. What is your name?", "not told me")]
    return [Turn(user, " ".join(facts), "(?i)" + ".*".join(v.split("|")[-1] for v in w.told.values()))]


SKILLS = {
    "tell_name": (8.0, tell_name),
    "ask_name": (2.0, ask_name),
    "tell_both": (2.5, tell_both),
    "tell_about": (5.0, tell_about),
    "ask_about": (1.5, ask_about),
    "tell_pet": (1.5, tell_pet),
    "ask_pet": (0.5, ask_pet),
    "about_me": (0.5, about_me),
}
# Once something has been told, it is asked for this much more often.
RECALL = {"name": ("ask_name", 14.0), "pet": ("ask_pet", 6.0)} | dict.fromkeys(_ABOUT, ("ask_about", 5.0))
