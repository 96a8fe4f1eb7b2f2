# ruff: noqa: SIM905 - word lists read best as one string
"""First names, and names made up from syllables so that the model learns to copy, not only to recall."""

from __future__ import annotations

import random

_GIRLS = """Ana Anna Maria Emma Olivia Sophia Mia Julia Laura Lena Lisa Sara Sarah Clara Ella Eva Nora Nina Lily
Rosa Rose Ruby
Grace Alice Amy Amelia Ava Bella Beth Carla Chloe Daisy Diana Elena Emily Erika Fatima Fiona Freya Gina Greta Hana
Hannah Helen Ida Ines Ingrid Irene Iris Isabel Ivy Jane Jasmine Jenny Jessica Joan Judy Kate Kira Leila Lucia
Lucy Luna
Maya Megan Mila Mina Molly Nadia Naomi Natalie Olga Paula Petra Priya Rachel Rita Sonia Stella Susan Tara Tina
Uma Vera
Victoria Wendy Yara Yuki Zara Zoe Aisha Akiko Amina Anita Astrid Barbara Carmen Celia Charlotte Dora Edith Elsa
Esther
Flora Frida Gabriela Hilda Jana Katja Linda Lotte Mei Noemi Nour Rania Samira Sofia Tessa Ursula Valentina Yasmin"""
_BOYS = """Tom Tim Ben Max Leo Sam Jack John Paul Peter Mark Luke Adam Alex Alan Albert Anton Arthur Boris Bruno
Carl Carlos
Charlie Chris Daniel David Diego Dylan Edward Eli Emil Eric Erik Ethan Felix Finn Frank Fred Gabriel George Hans
Harry
Hassan Henry Hugo Ian Igor Ivan Jacob James Jan Jason Jim Joe Jonas Jose Juan Karim Karl Kenji Kevin Kurt Lars
Liam Lucas
Luis Marco Mario Martin Mateo Matt Michael Mike Milo Mohamed Nick Nico Noah Oliver Omar Oscar Otto Owen Pablo
Patrick
Pedro Philip Pierre Rafael Ravi Ray Richard Robert Robin Roman Ryan Samuel Scott Sean Simon Stefan Steve Sven Theo
Thomas Tony Victor Walter Will William Yusuf Zack Ahmed Ali Amir Andre Arjun Bob Dmitri Emre Franz Giovanni Hiro
Jamal
Jorge Kofi Lorenzo Magnus Nils Olaf Pavel Rashid Sergei Tariq Umar Viktor Wei Xavier Yuri Zoran"""
GIRLS = _GIRLS.split()
BOYS = _BOYS.split()
PEOPLE = GIRLS + BOYS
SURNAMES = """Smith Jones Brown Miller Davis Wilson Moore Taylor Clark Lewis Walker Hall Young King Wright Hill
Green Baker
Adams Nelson Carter Mitchell Turner Parker Collins Garcia Lopez Silva Costa Rossi Bianchi Weber Schmidt Fischer
Wagner
Novak Kowalski Ivanov Petrov Tanaka Suzuki Sato Kim Lee Park Chen Wang Li Zhang Khan Singh Patel Ali Hansen
Larsen""".split()
PETS = """Rex Buddy Luna Bella Max Fluffy Spot Shadow Tiger Coco Milo Oreo Ginger Daisy Biscuit Pepper Snowy Bruno
Mittens Nala""".split()

_ONSETS = "b br c ch cl d dr f fl g gl gr h j k kl l m n p pl qu r s sh sk st t th tr v w x y z".split()
_VOWELS = "a e i o u a e i o u ai ea ee io oo ou ie y".split()
_CODAS = "n r l s x k m t th nd rk sh ck lt".split() + [""] * 8


def invented(rng: random.Random, syllables: int | None = None) -> str:
    """A word that is no word, such as 'Blorvia'."""
    count = syllables or rng.choice([2, 2, 2, 3])
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count)).capitalize()


def altered(rng: random.Random, name: str) -> str:
    """A name with a letter or two changed, dropped or added, or two halves joined."""
    if rng.random() < 0.3:
        other = rng.choice(PEOPLE)
        return (name[: len(name) // 2 + 1] + other[len(other) // 2 :]).capitalize()
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(name))
        letter = rng.choice("abcdefghiklmnoprstuvyz")
        name = rng.choice(
            [name[:at] + letter + name[at + 1 :], name[:at] + letter + name[at:], name[:at] + name[at + 1 :] or name]
        )
    return name.capitalize()


def person(rng: random.Random) -> str:
    dice = rng.random()
    if dice < 0.4:
        return rng.choice(PEOPLE)
    if dice < 0.46:
        return rng.choice(PETS)
    if dice < 0.5:
        return rng.choice(SURNAMES)
    if dice < 0.75:
        return altered(rng, rng.choice(PEOPLE))
    return invented(rng)
