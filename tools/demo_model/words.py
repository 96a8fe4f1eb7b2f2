# ruff: noqa: SIM905 - word lists read best as one string
"""Exchanges about words and letters: spelling, repeating, counting letters, the alphabet."""

from __future__ import annotations

from .geography import WELL_KNOWN
from .names import PEOPLE, invented, person
from .nature import ANIMALS, COLOURS, DAYS, MONTHS, OPPOSITES, PLANETS
from .things import THINGS
from .writer import Turn, Writer

_COMMON = """hello world house water friend school summer winter morning evening window kitchen garden mother
father sister brother
family people money paper music picture table letter number answer question computer science language country
city street
animal flower forest mountain river ocean island weather thunder rainbow orange purple yellow silver golden
little happy
strong gentle clever brave quiet honest lovely wonderful beautiful important different together tomorrow
yesterday today
always never sometimes because through enough thought bread butter cheese chocolate sugar coffee breakfast dinner
lunch
jump run walk swim think write read sing dance play laugh smile listen speak travel dream remember forget begin
finish
phalanx model server token word story joke""".split()
WORDS = sorted(
    set(_COMMON) | set(THINGS) | {a.name for a in ANIMALS if " " not in a.name} | set(COLOURS)
    | {w for p in OPPOSITES for w in p}
    | {d.lower() for d in DAYS + MONTHS + PLANETS} | {c.lower() for c in WELL_KNOWN if " " not in c}
)  # fmt: skip
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _word(w: Writer) -> str:
    return w.choice(PEOPLE) if w.chance(0.2) else w.choice(WORDS)


def spell(w: Writer) -> list[Turn]:
    word = _word(w)
    user = w.ask("[how do you|how do i|can you|could you|please|] spell [the word |]{word}", "spell {word}[ for me|]",
        "what is the spelling of {word}",
                 "how is {word} [spelled|spelt|written]", "which letters are in [the word |]{word}",
                 "how do you write {word}",
                 "spell it out: {word}", "spelling of {word}", word=word, mark=w.choice("?.."))  # fmt: skip
    letters = "-".join(word.upper())
    return [Turn(user, f"{letters}.", letters)]


def letters(w: Writer) -> list[Turn]:
    word = _word(w)
    dice = w.rng.random()
    if dice < 0.5:
        user = w.ask("how many letters [are in|are there in|does|has] [the word |]{word}[ have|]",
            "count the letters [in|of] {word}",
                     "how long is the word {word}", "number of letters in {word}", word=word)  # fmt: skip
        return [
            Turn(
                user,
                f'The word "{word}" has {len(word)} letters: {"-".join(word.upper())}.',
                f"has {len(word)} letters",
            )
        ]
    end, letter = w.choice([("first", word[0]), ("last", word[-1])])
    if end == "first":
        user = w.ask("what is the first letter of [the word |]{word}",
            "[which|what] letter does {word} [start|begin] with",
                     "what does {word} [start|begin] with", "first letter of {word}", word=word)  # fmt: skip
    else:
        user = w.ask("what is the last letter of [the word |]{word}", "[which|what] letter does {word} end with",
                     "what does {word} end with", "last letter of {word}", word=word)  # fmt: skip
    return [Turn(user, f'The {end} letter of "{word}" is {letter.upper()}.', f"is {letter.upper()}\\.")]


def alphabet(w: Writer) -> list[Turn]:
    i = w.rng.randrange(26)
    dice = w.rng.random()
    if dice < 0.4 and i < 25:
        user = w.ask("[which|what] letter comes after {a}", "what comes after [the letter |]{a} in the alphabet",
                     "what is the letter after {a}", "what is the next letter after {a}", a=_LETTERS[i])  # fmt: skip
        return [Turn(user, f"The letter after {_LETTERS[i]} is {_LETTERS[i + 1]}.", f"is {_LETTERS[i + 1]}\\.")]
    if dice < 0.7 and i > 0:
        user = w.ask("[which|what] letter comes before {a}", "what comes before [the letter |]{a} in the alphabet",
                     "what is the letter before {a}", a=_LETTERS[i])  # fmt: skip
        return [Turn(user, f"The letter before {_LETTERS[i]} is {_LETTERS[i - 1]}.", f"is {_LETTERS[i - 1]}\\.")]
    nth = ["first", "second", "third", "fourth", "fifth", "last"][i % 6]
    letter = _LETTERS[-1] if nth == "last" else _LETTERS[i % 6]
    user = w.ask(
        "what is the {nth} letter of the alphabet", "which letter is the {nth} [one in|in|of] the alphabet", nth=nth
    )
    return [Turn(user, f"The {nth} letter of the alphabet is {letter}.", f"is {letter}\\.")]


_PHRASES = [
    "good morning", "i like cake", "the cat is on the table", "hello world", "the sun is warm", "we are friends",
    "i love music", "the dog runs fast", "it is raining", "one two three", "my house is big", "all is well",
    "the bird sings", "let us go home", "blue sky", "red and green", "time to sleep", "the moon is bright",
    "never give up", "i can do it", "tea and honey", "nice to meet you",
]  # fmt: skip


def repeat(w: Writer) -> list[Turn]:
    dice = w.rng.random()
    what = ""
    if dice < 0.25:
        what = invented(w.rng).lower()
    elif dice < 0.35:
        what = person(w.rng)
    elif dice < 0.6:
        what = w.choice(WORDS)
    what = what or (w.choice(_PHRASES) if w.chance(0.5) else " ".join(w.rng.sample(WORDS, w.rng.randrange(2, 7))))
    if w.chance(0.4) and " " not in what:
        n, word = w.choice(
            [
                (2, "two"),
                (3, "three"),
                (4, "four"),
                (5, "five"),
                (6, "six"),
                (2, "2"),
                (3, "3"),
                (4, "4"),
                (5, "5"),
                (10, "10"),
            ]
        )
        user = w.ask("[say|repeat|write|please say|can you say|can you repeat|please repeat] [the word |]{what} {n} "
            "times", "{what}, {n} times please",
                     "[say|write] {n} times {what}", "{n} times the word {what}",
                     "i want you to say {what} {n} times",
                     what=what, n=word, mark=w.choice("?.."))  # fmt: skip
        text = " ".join([what] * n)
    else:
        user = w.wording("[please |can you |could you |]say[:| ]{what}", "repeat after me: {what}", "repeat: {what}",
            "repeat [the words |the word |this: |]{what}",
                         "say after me: {what}", "say this: {what}",
                         "[please |]write[:| the words| the word| this:] {what}", 'say "{what}"',
                         'repeat "{what}"', "can you repeat {what}", "i want you to say {what}",
                         "just say {what}").format(what=what)  # fmt: skip
        if w.chance(0.6):
            user = user[0].upper() + user[1:]
        text = what
    text = text if any(c.isupper() for c in user[1:]) or text == text.lower() else text.lower()
    text = text[0].upper() + text[1:] + "."
    return [Turn(user, text, "(?i)^" + text[:-1])]


SKILLS = {
    "spell": (3.0, spell),
    "letters": (2.0, letters),
    "alphabet": (1.5, alphabet),
    "repeat": (4.0, repeat),
}
