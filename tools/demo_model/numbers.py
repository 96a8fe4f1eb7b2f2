# ruff: noqa: SIM905 - word lists read best as one string
"""Exchanges about small numbers. The tokenizer splits digits, so sums are learned digit by digit."""

from __future__ import annotations

from .names import person
from .writer import Turn, Writer

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen "
         "eighteen nineteen").split()  # fmt: skip
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
LIMIT = 999


def in_words(n: int) -> str:
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + ("" if n % 10 == 0 else "-" + _ONES[n % 10])
    return str(n)


def _number(w: Writer) -> int:
    dice = w.rng.random()
    return w.rng.randrange(13) if dice < 0.2 else w.rng.randrange(100) if dice < 0.85 else w.rng.randrange(LIMIT + 1)


def _written(w: Writer, n: int) -> str:
    return in_words(n) if n < 100 and w.chance(0.12) else str(n)


_ASK = ("[what is|what's|how much is|calculate|compute|tell me|what do you get for|can you calculate|solve|work out|"
    "what does|whats|"
        "do you know|could you compute|give me|find|what would be|what will be|evaluate|]")  # fmt: skip
_PLUS = (
    f"{_ASK} {{a}} plus {{b}}",
    f"{_ASK} {{a}} + {{b}}",
    f"{_ASK} {{a}}+{{b}}",
    f"{_ASK} {{a}} and {{b}} together",
    f"{_ASK} the sum of {{a}} and {{b}}",
    "add {a} and {b}",
    "add {a} to {b}",
    "{a} + {b} =",
    "{a}+{b}=",
    "{a} plus {b}",
    "{a} plus {b} is",
    "{a} plus {b} equals",
    "if you add {a} and {b}[,|] what do you get",
    "how much do {a} and {b} make",
    "what do {a} and {b} make",
    "sum of {a} and {b}",
    "can you add {a} and {b}",
    "please add {b} to {a}",
    "what do you get when you add {a} and {b}",
    "what is the total of {a} and {b}",
)
_MINUS = (
    f"{_ASK} {{a}} minus {{b}}",
    f"{_ASK} {{a}} - {{b}}",
    f"{_ASK} {{a}}-{{b}}",
    "subtract {b} from {a}",
    "take {b} [away |]from {a}",
    "take away {b} from {a}",
    "{a} - {b} =",
    "{a}-{b}=",
    "{a} minus {b}",
    "{a} minus {b} is",
    "what is left [if|when] you take {b} [away |]from {a}",
    "[what is|what's] the difference [of|between] {a} and {b}",
    "how much is {a} less {b}",
    "can you subtract {b} from {a}",
    "what do you get when you subtract {b} from {a}",
)
_TIMES = (
    f"{_ASK} {{a}} times {{b}}",
    f"{_ASK} {{a}} * {{b}}",
    f"{_ASK} {{a}} x {{b}}",
    f"{_ASK} {{a}}*{{b}}",
    "multiply {a} by {b}",
    "multiply {a} and {b}",
    "{a} times {b}",
    "{a} multiplied by {b}",
    "what is {a} multiplied by {b}",
    "what is the product of {a} and {b}",
    "{a} * {b} =",
    "{a} x {b}",
)


def plus(w: Writer) -> list[Turn]:
    a, b = _number(w), _number(w)
    turns = [
        Turn(
            w.ask(*_PLUS, a=_written(w, a), b=_written(w, b)),
            w.say("{a} plus {b} is {c}.", a=a, b=b, c=a + b),
            rf"is {a + b}\.",
        )
    ]
    total = a + b
    while w.chance(0.2) and total < LIMIT:
        b = w.rng.randrange(1, 30)
        user = w.ask("[and |now |]add {b}", "plus {b}", "and plus {b}", "now add {b} to that", "add {b} more",
            "and {b} more",
                     "plus {b} more", "and now plus {b}", "add {b} to it", "+ {b}", b=b)  # fmt: skip
        turns.append(Turn(user, f"{total} plus {b} is {total + b}.", rf"is {total + b}\."))
        total += b
    return turns


def minus(w: Writer) -> list[Turn]:
    a, b = _number(w), _number(w)
    if a < b and w.chance(0.8):
        a, b = b, a
    first = Turn(
        w.ask(*_MINUS, a=_written(w, a), b=_written(w, b)),
        w.say("{a} minus {b} is {c}.", a=a, b=b, c=a - b),
        rf"is {a - b}\.",
    )
    turns, left = [first], a - b
    if left > 0 and w.chance(0.2):
        b = w.rng.randrange(1, min(left, 30) + 1)
        user = w.ask("[and |now |]take away {b}", "minus {b}", "and minus {b}", "subtract {b}",
            "now subtract {b} from that",
                     "take {b} away", "- {b}", b=b)  # fmt: skip
        turns.append(Turn(user, f"{left} minus {b} is {left - b}.", rf"is {left - b}\."))
    return turns


def times(w: Writer) -> list[Turn]:
    if w.chance(0.2):
        a, b = w.rng.randrange(1, 13), w.rng.randrange(0, 13)
        user = w.ask("what is {p} divided by {a}", "divide {p} by {a}", "{p} / {a}", "what is {p} / {a}",
            "how much is {p} divided by {a}",
                     "{p} divided by {a}", "calculate {p} / {a}", a=a, p=a * b)  # fmt: skip
        return [Turn(user, f"{a * b} divided by {a} is {b}.", rf"is {b}\.")]
    a, b = w.rng.randrange(13), w.rng.randrange(13)
    user = w.ask(*_TIMES, a=_written(w, a), b=_written(w, b))
    return [Turn(user, f"{a} times {b} is {a * b}.", rf"is {a * b}\.")]


def too_big(w: Writer) -> list[Turn]:
    sign = w.choice(["plus", "minus", "times", "divided by"])
    if sign in ("plus", "minus"):
        a, b = w.rng.randrange(1000, 10 ** w.rng.randrange(4, 8)), w.rng.randrange(10, 10 ** w.rng.randrange(2, 7))
        if sign == "plus" and w.chance(0.5):
            a, b = b, a
    elif sign == "times":
        a, b = w.rng.randrange(13, 10 ** w.rng.randrange(2, 5)), w.rng.randrange(13, 10 ** w.rng.randrange(2, 5))
    else:
        b = w.rng.randrange(13, 500)
        a = w.rng.randrange(b + 1, 10**5)
    symbol = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}[sign]
    user = w.ask(f"{_ASK} {{a}} {sign} {{b}}", f"{_ASK} {{a}} {symbol} {{b}}", "{a} " + symbol + " {b}",
        "{a} " + sign + " {b}",
                 "{a}" + symbol + "{b}", a=a, b=b)  # fmt: skip
    return [Turn(user, "I do not know that one: the numbers are too big for me. I add and subtract numbers up to "
    "999, and I know "
                       "the times tables up to 12.", "not know")]  # fmt: skip


def hard_maths(w: Writer) -> list[Turn]:
    n = w.rng.randrange(2, 1000)
    user = w.ask("what is the [square |cube |]root of {n}", "what is [pi|e] [times|plus] {n}",
        "what is the [sine|cosine|tangent|logarithm|log] of {n}",
                 "what is {n} [squared|cubed|factorial]", "what is {n} percent of {m}", "is {n} a prime number",
                 "is {n} prime",
                 "what is the derivative of x^{n}", "integrate x^{n}", "solve x + {n} = {m} for x",
                 "what is {n} to the power of {m}",
                 "what are the factors of {n}", "what is {n} in [binary|hexadecimal|roman numerals]",
                 "solve {n}x = {m}",
                 "what is {n}.5 plus {m}.25", "what is a [integral|derivative|matrix|logarithm|prime number|vector|"
                 "fraction]",
                 "what are the digits of pi", "what is pi", "how do i solve an equation",
                 "prove that there are infinitely many primes",
                 n=n, m=w.rng.randrange(2, 1000))  # fmt: skip
    return [Turn(user, "I do not know that kind of maths. I can add, subtract and multiply small numbers.", "not know")]


_ITEMS = """apples pears books pencils eggs coins balls cookies flowers stones cards cups hats shells stars sweets
toys nuts oranges""".split()


def word_problem(w: Writer) -> list[Turn]:
    name, item = person(w.rng), w.choice(_ITEMS)
    a, b = w.rng.randrange(1, 40), w.rng.randrange(1, 40)
    if w.chance(0.5):
        user = w.ask("{who} ha[s|d] {a} {item} and [gets|buys|finds] {b} more. how many {item} does {who} have[ now|]",
                     "if {who} has {a} {item} and [gets|finds|buys] {b} more[,|] how many [does {who} have|are "
                     "there|{item} does {who} have]",
                     "there are {a} {item}. {who} brings {b} more. how many [are there now|{item} are there]",
                     who=name, a=a, b=b, item=item)  # fmt: skip
        return [Turn(user, f"{a} plus {b} is {a + b}, so there are {a + b} {item}.", f"{a + b} {item}")]
    if w.chance(0.4):
        user = w.ask("i have {a} {item} and [get|buy|find] {b} more. how many [{item} |]do i have[ now|]",
                     "if i have {a} {item} and [you give me|i get|i buy|i find] {b} more[,|] how many [{item} |]do "
                     "i have[ now|]",
                     "i had {a} {item} and then i got {b} more. how many [now|do i have now|{item} do i have]", a=a,
                     b=b, item=item)  # fmt: skip
        return [Turn(user, f"{a} plus {b} is {a + b}, so you have {a + b} {item}.", f"{a + b} {item}")]
    a, b = max(a, b), min(a, b)
    who, has, ans = w.choice([(name, "has", f"{name} has"), ("I", "have", "you have")])
    do = "does " + name if who == name else "do I"
    user = w.ask("{who} {has} {a} {item} and [{gives} away|{loses}|{eats}] {b}[ of them|]. how many [{item} |]{do} "
        "have [left|now]",
                 "if {who} {has} {a} {item} and [{gives} {b} to a friend|{loses} {b}][,|] how many are left",
                 who=who, has=has, a=a, b=b, item=item, do=do, gives="gives" if who == name else "give",
                 loses="loses" if who == name else "lose", eats="eats" if who == name else "eat")  # fmt: skip
    return [Turn(user, f"{a} minus {b} is {a - b}, so {ans} {a - b} {item} left.", f"{a - b} {item}")]


def compare(w: Writer) -> list[Turn]:
    a, b = w.rng.sample(range(101 if w.chance(0.8) else 1000), 2)
    big, small = max(a, b), min(a, b)
    if w.chance(0.6):
        user = w.ask("[which|what] is [bigger|larger|more|greater][,|:|] {a} or {b}",
            "which number is [bigger|larger|greater][,|:|] {a} or {b}",
                     "is {a} [bigger|larger|more|greater] than {b}", "{a} or {b}[,|:] which is [bigger|larger|more]",
                     a=a, b=b)  # fmt: skip
        if " than " in user.lower():
            return [
                Turn(
                    user,
                    f"{'Yes' if a > b else 'No'}, {big} is bigger than {small}.",
                    f"{'Yes' if a > b else 'No'}, {big}",
                )
            ]
        return [Turn(user, f"{big} is bigger than {small}.", f"{big} is bigger")]
    user = w.ask("[which|what] is [smaller|less][,|:|] {a} or {b}", "which number is [smaller|less][,|:|] {a} or {b}",
                 "is {a} [smaller|less] than {b}", "{a} or {b}[,|:] which is [smaller|less]", a=a, b=b)  # fmt: skip
    if " than " in user.lower():
        return [
            Turn(
                user,
                f"{'Yes' if a < b else 'No'}, {small} is smaller than {big}.",
                f"{'Yes' if a < b else 'No'}, {small}",
            )
        ]
    return [Turn(user, f"{small} is smaller than {big}.", f"{small} is smaller")]


def neighbour(w: Writer) -> list[Turn]:
    n = w.rng.randrange(1, 100) if w.chance(0.85) else w.rng.randrange(1, 1000)
    kind = w.rng.randrange(5)
    if kind == 0:
        user = w.ask("[what|which] number comes after {n}", "what comes after {n}", "what is the number after {n}",
            "what is the next number after {n}",
                     "what follows {n}", n=n)  # fmt: skip
        return [Turn(user, f"The number after {n} is {n + 1}.", rf"is {n + 1}\.")]
    if kind == 1:
        user = w.ask(
            "[what|which] number comes before {n}", "what comes before {n}", "what is the number before {n}", n=n
        )
        return [Turn(user, f"The number before {n} is {n - 1}.", rf"is {n - 1}\.")]
    if kind == 2:
        user = w.ask(
            "is {n} [even|odd]",
            "is {n} even or odd",
            "is {n} an [even|odd] number",
            "is the number {n} [even|odd]",
            n=n,
        )
        asked = "even" if "even" in user.lower() and "odd" not in user.lower() else "odd"
        real = "odd" if n % 2 else "even"
        if "or odd" in user.lower():
            return [Turn(user, f"{n} is {real}.", real)]
        yes = "Yes" if asked == real else "No"
        return [Turn(user, f"{yes}, {n} is {real}.", f"{yes}, {n} is {real}")]
    if kind == 3:
        user = w.ask(
            "what is [twice|double] {n}",
            "[what is the double of|double] {n}",
            "two times {n}",
            "how much is twice {n}",
            n=n,
        )
        return [Turn(user, f"Twice {n} is {2 * n}.", rf"is {2 * n}\.")]
    n = 2 * w.rng.randrange(1, 50)
    user = w.ask("what is half of {n}", "what's the half of {n}", "half of {n}", "how much is half of {n}", n=n)
    return [Turn(user, f"Half of {n} is {n // 2}.", rf"is {n // 2}\.")]


def count(w: Writer) -> list[Turn]:
    dice = w.rng.random()
    n = w.rng.randrange(3, 31) if w.chance(0.6) else w.choice([5, 10, 15, 20, 3, 50, 12, 30])
    ask = (
        "[count|please count|can you count|could you count|i want you to count|count for me|let's count"
        "|try to count|count out loud|count numbers]"
    )
    if dice < 0.5:
        user = w.ask(f"{ask} to {{n}}", f"{ask} [up to|from 1 to|from one to] {{n}}",
            "say the numbers [up to|from 1 to] {n}",
                     "list the numbers [up to|from 1 to] {n}", n=_written(w, n), mark=w.choice("?.."))  # fmt: skip
        numbers = range(1, n + 1)
    elif dice < 0.65:
        a = w.rng.randrange(2, 60)
        numbers = range(a, a + w.rng.randrange(3, 16))
        user = w.ask(
            f"{ask} from {{a}} to {{b}}", "say the numbers from {a} to {b}", a=a, b=numbers[-1], mark=w.choice("?..")
        )
    elif dice < 0.82:
        n = w.rng.randrange(3, 21)
        numbers = range(n, 0, -1)
        user = w.ask(f"{ask} [backwards|down|backward] from {{n}}", f"{ask} [backwards|down] from {{n}} to 1",
            "count down from {n}",
                     f"{ask} from {{n}} down to 1", f"{ask} from {{n}} to 1", n=n, mark=w.choice("?.."))  # fmt: skip
    elif dice < 0.94:
        step, word = w.choice([(2, "twos"), (5, "fives"), (10, "tens"), (3, "threes")])
        n = step * w.rng.randrange(3, 11)
        numbers = range(step, n + 1, step)
        user = w.ask(f"{ask} [by|in] {{word}} to {{n}}", f"{ask} to {{n}} [by|in] {{word}}",
            f"{ask} [by|in] {{step}}s to {{n}}", word=word, step=step, n=n,
                     mark=w.choice("?.."))  # fmt: skip
    else:
        n = w.choice([100, 1000, 10000, 1000000, 200, 500, 150, 99, 80, 75, 60])
        user = w.ask(f"{ask} to {{n}}", f"{ask} [up to|from 1 to] {{n}}", n=n, mark=w.choice("?.."))
        return [
            Turn(user, f"{n} is a long way! I start: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, and so on up to {n}.", "long way")
        ]
    text = ", ".join(map(str, numbers))
    return [Turn(user, text + ".", "^" + text)]


SKILLS = {
    "plus": (10.0, plus),
    "minus": (8.0, minus),
    "times": (3.0, times),
    "too_big": (1.0, too_big),
    "hard_maths": (1.0, hard_maths),
    "word_problem": (2.5, word_problem),
    "compare": (1.5, compare),
    "neighbour": (2.0, neighbour),
    "count": (3.0, count),
}
