"""Jokes, riddles and knock-knock jokes."""

from __future__ import annotations

from .names import invented, person
from .writer import Turn, Writer

JOKES = """Why did the chicken cross the road? To get to the other side!
What do you call a bear with no teeth? A gummy bear!
Why did the bicycle fall over? It was two tired!
What do you call cheese that is not yours? Nacho cheese!
Why can you not trust stairs? They are always up to something!
Why did the cookie go to the doctor? It felt crummy!
What do you call a sleeping dinosaur? A dino-snore!
Why did the tomato turn red? It saw the salad dressing!
What has four wheels and flies? A garbage truck!
Why are fish so clever? They live in schools!
What did one wall say to the other wall? I will meet you at the corner!
Why was the maths book sad? It had too many problems!
What do cows read in the morning? The moos-paper!
What do you call a fish with no eye? A fsh!
Why do bees have sticky hair? They use honeycombs!
What kind of tree fits in your hand? A palm tree!
Why did the banana go to the doctor? It was not peeling well!
What do you get when you cross a snowman and a dog? Frostbite!
How do you make an octopus laugh? With ten tickles!
Why did the computer go to the doctor? It had a virus!
What did zero say to eight? Nice belt!
Why was six afraid of seven? Because seven eight nine!
What animal needs to wear a wig? A bald eagle!
Where do cows go on Friday night? To the moo-vies!
Why did the teddy bear say no to cake? It was already stuffed!
What is a cat's favourite colour? Purr-ple!
Why do ducks have feathers? To cover their butt quacks!
What do you call a dog that does magic? A labracadabrador!
Why did the scarecrow win a prize? He was outstanding in his field!
What do elves learn at school? The elf-abet!
Why did the golfer bring two pairs of trousers? In case he got a hole in one!
What do you call an alligator in a vest? An investigator!
How does the Moon cut its hair? Eclipse it!
What do you call a pig that knows karate? A pork chop!
Why did the man put his money in the freezer? He wanted cold cash!
What did the ocean say to the beach? Nothing, it just waved!
Why do we never tell secrets on a farm? The potatoes have eyes and the corn has ears!
How do trees go on the internet? They log in!
What do you call a snowman in summer? A puddle!
What time is it when an elephant sits on your fence? Time to get a new fence!""".splitlines()

RIDDLES = [line.split("|") for line in """What has hands but cannot clap?|a clock
What has keys but cannot open a lock?|a piano
What gets wetter the more it dries?|a towel
What has a neck but no head?|a bottle
What has teeth but cannot bite?|a comb
What goes up but never comes down?|your age
What has one eye but cannot see?|a needle
What has many pages but is not a tree full of leaves?|a book
What can you catch but not throw?|a cold
What is full of holes but still holds water?|a sponge
What has legs but does not walk?|a table
What runs but never walks?|a river
What belongs to you, but others use it more than you do?|your name
What has an ear but cannot hear?|corn
What can travel around the world while staying in a corner?|a stamp
What goes away as soon as you say its name?|silence
What is black when it is clean and white when it is dirty?|a blackboard""".splitlines()]  # fmt: skip

KNOCKS = [line.split("|") for line in """Lettuce|Lettuce in, it is cold out here!
Boo|Do not cry, it is only a joke!
Cow says|No, a cow says moo!
Tank|You are welcome!
Olive|Olive you too!
Orange|Orange you glad to see me?
Justin|Justin time for dinner!
Ice cream|Ice cream every time I see a ghost!
Harry|Harry up, it is cold out here!
Nobel|Nobel, so I knocked!""".splitlines()]  # fmt: skip


def joke(w: Writer) -> list[Turn]:
    first = w.ask("tell me a [|funny |good |short |silly |great ]joke[ please|]",
    "[do you know|can you tell me|give me|i want|make|say|i'd like] a [|funny |good |short ]joke", "joke",
                  "make me laugh", "tell me something funny", "say something funny", "can you make me laugh",
                  "can you be funny", "do you know any jokes", "tell a joke",
                  "i would like to hear a joke", "i want to laugh", "cheer me up",
                  "cheer me up with [a joke|a funny joke|something funny|some joke]",
                  "[do you have|have you got|got] [a|any|another] [|good |funny |nice ]joke[s|] for me",
                  "let me hear a joke", "got any jokes",
                  "tell me a joke about [cows|animals|bears|fish|dogs|cats|school|food|anything|the sea|a chicken]",
                  mark=w.choice("?.."))  # fmt: skip
    jokes = w.favoured(JOKES, 3)
    turns = [Turn(first, jokes[0], r"\?.*!")]
    for other in jokes[1:]:
        if not w.chance(0.3):
            break
        user = w.ask("another[ one|]", "another joke", "one more", "tell me another[ one| joke|]", "more", "again",
            "one more joke", "do you know another one", "can you tell another one",
                     "a different one", "that was good, another one", "haha, another",
                     mark=w.choice("?..!"))  # fmt: skip
        turns.append(Turn(user, other, r"\?.*!"))
    return turns


def riddle(w: Writer) -> list[Turn]:
    question, answer = w.favoured(RIDDLES)[0]
    user = w.ask("[tell|ask|give] me [a|one|another|some] [riddle|puzzle|brain teaser|riddles]",
        "[a|one|another] [riddle|puzzle|brain teaser][ please|]",
        "do you [know|have] a [|good |nice |funny ][riddle|puzzle|brain teaser][ for me|]",
        "let me solve a [riddle|puzzle]", "i want to [guess|solve] [something|a riddle|a puzzle]",
        "do you know a [good |]riddle", "a riddle[ please|]", "can you [tell|ask] me a riddle", "i want a riddle",
        "let's do a riddle", "riddle", "ask me something", "give me a puzzle",
                 "i like riddles", "quiz me", mark=w.choice("?.."))  # fmt: skip
    turns = [Turn(user, question, r"\?")]
    dice = w.rng.random()
    if dice < 0.6:
        user = w.ask("i [give up|don't know|do not know]", "what is it", "what is the answer",
            "tell me[ the answer|]", "no idea", "the answer please", "i have no idea", "what's the answer",
            "give me the answer", "say it", "hmm, i give up",
                     mark=w.choice("?.."))  # fmt: skip
        turns.append(Turn(user, f"The answer is {answer}!", answer))
    elif dice < 0.85:
        turns.append(
            Turn(
                w.ask(
                    "[is it |it is |it's |]{a}",
                    "{a}",
                    "i think it is {a}",
                    "the answer is {a}",
                    a=answer,
                    mark=w.choice("?.!"),
                ),
                f"Yes, the answer is {answer}! Well done!",
                "Yes",
            )
        )
    else:
        other = w.choice(
            [r[1] for r in RIDDLES if r[1] != answer]
            + ["a dog", "the wind", "a tree", "a ball", "water", "time", "a car"]
        )
        turns.append(
            Turn(
                w.ask(
                    "[is it |it is |it's |]{a}",
                    "i think it is {a}",
                    "the answer is {a}",
                    "{a}",
                    a=other,
                    mark=w.choice("?.!"),
                ),
                f"No, but that was a good try! The answer is {answer}.",
                "No.*" + answer,
            )
        )
    return turns


def knock_knock(w: Writer) -> list[Turn]:
    dice = w.rng.random()
    if dice < 0.5:
        who = (
            person(w.rng)
            if w.chance(0.5)
            else w.choice(["Lettuce", "Boo", "Tank", "Olive", "Orange", "Ice cream", "Cow", "Banana", invented(w.rng)])
        )
        end = w.choice(
            [
                "Open the door!",
                "It is me!",
                "Let me in, it is cold!",
                "I forgot!",
                "Guess!",
                "Surprise!",
                "Knock knock again!",
            ]
        )
        return [
            Turn(w.ask("knock[,|] knock", mark=w.choice(["", "!", "."])), "Who is there?", "Who is there"),
            Turn(who + w.choice(["", "."]), f"{who} who?", f"{who} who"),
            Turn(f"{who}, {end[0].lower()}{end[1:]}" if w.chance(0.5) else end, "Ha ha, that is a good one!", "Ha ha"),
        ]
    who, end = w.favoured(KNOCKS)[0]
    return [
        Turn(
            w.ask("tell me a knock[-| ]knock joke", "[do you know|can you tell me|i want] a knock[-| ]knock joke"),
            "Knock, knock!",
            "Knock",
        ),
        Turn(w.ask("who is there", "who's there", "whos there", "and who is there"), f"{who}.", f"^{who}"),
        Turn(w.ask("{who} who", who=who), end, ""),
    ]


SKILLS = {
    "joke": (3.0, joke),
    "riddle": (1.5, riddle),
    "knock_knock": (1.0, knock_knock),
}
