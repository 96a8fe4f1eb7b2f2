"""Exchanges about countries and their capitals."""

from __future__ import annotations

from .geography import CONTINENTS, COUNTRIES, FREQUENT, SHORT_NAMES, WELL_KNOWN, Country
from .writer import Turn, Writer, listed

_WHAT = (
    "[what is|what's|tell me|can you tell me|do you know|could you tell me|i want to know|give me"
    "|say|which city is|what was|i need|i'd like to know|remind me of|what would be|name]"
)
_CAPITAL = (
    f"{_WHAT} the capital [city |]of {{country}}",
    f"{_WHAT} {{country}}'s capital[ city|]",
    "[which|what] city is the capital of {country}",
    "capital of {country}",
    "the capital of {country}",
    "{country} capital",
    "what is the name of the capital of {country}",
    "[do you know|can you say|would you know] what the capital of {country} is",
    "what capital does {country} have",
    "how is the capital of {country} called",
    "which city do they call the capital [of|in] {country}",
    "i forgot the capital of {country}[. what is it|. can you help me|]",
    "for {country}[,|] what is the capital",
    "[what's|what is] the capital in {country}",
)
_CAPITAL_NEXT = (
    "and {country}",
    "and of {country}",
    "[and |]what about {country}",
    "how about {country}",
    "and the capital of {country}",
    "and what is it for {country}",
    "now {country}",
    "what about the capital of {country}",
    "{country}",
    "same for {country}",
)


def _spoken(w: Writer, country: Country) -> str:
    return w.typed(_called(w, country))


def _called(w: Writer, country: Country) -> str:
    if country.name in SHORT_NAMES and w.chance(0.5):
        return w.choice(SHORT_NAMES[country.name])
    if country.name.startswith("the ") and w.chance(0.2):
        return country.name[4:]
    return country.name


def capital(w: Writer) -> list[Turn]:
    country = w.choice(FREQUENT)
    first = Turn(
        w.ask(*_CAPITAL, country=_spoken(w, country)),
        w.say(
            "The capital of {c.name} is {c.capital}.",
            "The capital of {c.name} is {c.capital}.[ Would you like to know another one?| Ask me about another "
            "country!]",
            c=country,
        ),
        country.capital,
    )
    turns = [first]
    while w.chance(0.3) and len(turns) < 4:
        country = w.choice(FREQUENT)
        turns.append(
            Turn(
                w.ask(*_CAPITAL_NEXT, country=_spoken(w, country)),
                w.say("The capital of {c.name} is {c.capital}.", c=country),
                country.capital,
            )
        )
    if w.chance(0.08):
        turns.append(
            Turn(
                w.ask("[where is it|where is that|where is that country|which continent is it on|where is that place]"),
                w.say("{c.name} is in {c.continent}.", c=country),
                country.continent,
            )
            if country.continent != "-"
            else Turn(
                w.ask("[where is it|where is that]"),
                w.say("I am sorry, I do not know which continent to name for {c.name}.", c=country),
                "not know",
            )
        )
    return turns


def capital_reversed(w: Writer) -> list[Turn]:
    country = w.choice([c for c in FREQUENT if c.capital != c.name])
    user = w.ask(
        "{city} is the capital of [which|what] country",
        "[which|what] country has {city} as [its|the] capital",
        "[which|what] country has the capital {city}",
        "of [which|what] country is {city} the capital",
        "what is {city} the capital of",
        "{city} is the capital of what",
        "which country's capital is {city}",
        "[what is|tell me about] {city}",
        "where is {city}",
        "[in |]which country is {city}[ in|]",
        "what country is {city} in",
        city=country.capital,
    )
    return [Turn(user, w.say("{c.capital} is the capital of {c.name}.", c=country), country.name)]


def capital_check(w: Writer) -> list[Turn]:
    country = w.choice(FREQUENT)
    right = w.chance(0.5)
    city = country.capital if right else w.choice(FREQUENT).capital
    right = city == country.capital
    user = w.ask(
        "is {city} [really |]the capital[ city|] of {country}",
        "[isn't|is not|wasn't] {city} the capital[ city|] of {country}",
        "is it [true|right|correct] that {city} is the capital of {country}",
        "{country}'s capital is {city}[, right|, isn't it|]",
        "the capital of {country} is {city}[, right|, isn't it|, no|]",
        "{city} is the capital of {country}[, right|, isn't it|, correct|, true or false|]",
        "is the capital of {country} {city}",
        "isn't {city} the capital of {country}",
        "true or false[:|,] {city} is the capital of {country}",
        "i think the capital of {country} is {city}[. is that right|. am i right|]",
        city=city,
        country=_spoken(w, country),
    )
    if right:
        return [Turn(user, w.say("Yes, the capital of {c.name} is {c.capital}.", c=country), "Yes")]
    return [Turn(user, w.say("No, the capital of {c.name} is {c.capital}.", c=country), f"No, .*{country.capital}")]


def continent(w: Writer) -> list[Turn]:
    country = w.choice([c for c in FREQUENT if c.continent != "-"])
    spoken = _spoken(w, country)
    if w.chance(0.25):
        other = w.choice(CONTINENTS)
        user = w.ask(
            "is {country} [|located |situated ]in {other}",
            "does {country} [lie in|belong to] {other}",
            "is {country} [a part of|on|part of] {other}",
            "{country} is in {other}[, right|, isn't it|]",
            country=spoken,
            other=other,
        )
        yes = other == country.continent
        answer = w.say(("Yes, " if yes else "No, ") + "{c.name} is in {c.continent}.", c=country)
        return [Turn(user, answer, "Yes" if yes else f"No, .*{country.continent}")]
    user = w.ask(
        "[which|what] continent is {country} [in|on|part of]",
        "[on|in] [which|what] continent is {country}",
        "where is {country}",
        "[to |]which continent does {country} belong[ to|]",
        "where [can i find|is] {country}[ on the map|]",
        "[tell me|do you know] where {country} is",
        "what part of the world is {country} in",
        "in which continent [can i find|do i find|lies|is] {country}",
        "[which|what] continent is {country} [located|situated] in",
        "continent of {country}",
        "{country} is in [which|what] continent",
        "where in the world is {country}",
        country=spoken,
    )
    return [Turn(user, w.say("{c.name} is in {c.continent}.", c=country), country.continent)]


def language(w: Writer) -> list[Turn]:
    country = w.choice([c for c in FREQUENT if c.language != "-"])
    user = w.ask(
        "[which|what] language [do people speak|do they speak|is spoken] in {country}",
        "what do [people|they] speak in {country}",
        "[what is|what's] the [main |]language [of|in] {country}",
        "[main |the |]language of {country}",
        "{country} language",
        "language spoken in {country}",
        "[what|which] language do [people|folks|they|we] [speak|use|talk] in {country}",
        "tell me [the|which] language [of|they speak in] {country}",
        "{country}'s language",
        "what is spoken in {country}",
        "which language do people in {country} speak",
        "what language will i hear in {country}",
        country=_spoken(w, country),
    )
    return [Turn(user, w.say("The main language of {c.name} is {c.language}.", c=country), country.language)]


def about_country(w: Writer) -> list[Turn]:
    country = w.choice([c for c in FREQUENT if c.language != "-" and c.continent != "-"])
    user = w.ask(
        "tell me [something |a little |]about {country}",
        "what [do|can] you [know|tell me] about {country}",
        "what is {country}",
        "describe {country}",
        "i want to [know|learn] [more |something |]about {country}",
        "give me a fact about {country}",
        country=_spoken(w, country),
        mark=w.choice("?.."),
    )
    answer = (
        "{c.name} is a country in {c.continent}. Its capital is {c.capital}, and its main language is {c.language}."
    )
    return [Turn(user, w.say(answer, c=country), f"{country.continent}.*{country.capital}")]


def countries_of(w: Writer) -> list[Turn]:
    where = w.choice(CONTINENTS)
    count, word = w.choice(
        [(1, "a"), (2, "two"), (3, "three"), (3, "3"), (3, "some"), (4, "four"), (5, "five"), (2, "2")]
    )
    pool = [c for c in COUNTRIES if c.continent == where]
    known = [c for c in pool if c.name in WELL_KNOWN]
    names = [c.name for c in w.favoured(known if len(known) >= count else pool, count)]
    user = w.ask(
        "name {word} countr[y|ies] in {where}" if count > 1 else "name a country in {where}",
        "[tell me|give me|list|say] {word} {plural} [in|of|from] {where}",
        "can you [name|list] {word} {plural} in {where}",
        "do you know {word} {plural} in {where}",
        "which countries are in {where}" if count == 3 else "name {word} {plural} of {where}",
        word=word, where=where, plural="country" if count == 1 else "countries",
        mark=w.choice(["?", "."]),
    )  # fmt: skip
    answer = "One country in {where} is {names}." if count == 1 else "{names} are countries in {where}."
    key = "|".join(c.name for c in pool)
    return [Turn(user, w.say(answer, where=where, names=listed(names)), f"(?:{key}).*{where}|{where}.*(?:{key})")]


SKILLS = {
    "capital": (10.0, capital),
    "capital_reversed": (3.0, capital_reversed),
    "capital_check": (2.0, capital_check),
    "continent": (3.0, continent),
    "language": (2.0, language),
    "about_country": (1.5, about_country),
    "countries_of": (1.0, countries_of),
}
