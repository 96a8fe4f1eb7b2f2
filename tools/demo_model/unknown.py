# ruff: noqa: C408, SIM905 - word lists read best as one string, slots as keywords
"""Questions from outside the demo world, and the honest answers to them."""

from __future__ import annotations

from .geography import FREQUENT, REGIONS
from .names import PEOPLE, SURNAMES, invented
from .nature import ANIMALS, PLANETS
from .things import THINGS
from .words import WORDS
from .writer import Turn, Writer, article

NOT_KNOWN = (
    "I am sorry, I do not know that. I am a very small model and know only a few things.",
    "I do not know that. My world is small: ask me about capitals, animals, sums or stories.",
)

_TOPICS = """quantum mechanics|relativity|inflation|democracy|capitalism|communism|socialism|philosophy|
the stock market|bitcoin|blockchain|cryptocurrency|climate change|global warming|evolution|genetics|dna|
the big bang|black holes|dark matter|string theory|thermodynamics|chemistry|algebra|calculus|statistics|
linear algebra|machine learning|neural networks|transformers|attention|backpropagation|deep learning|
artificial intelligence|the internet|wifi|bluetooth|quantum computing|encryption|databases|operating systems|
compilers|kubernetes|docker|git|linux|windows|android|microservices|the cloud|html|css|sql|regular expressions|
feminism|religion|buddhism|islam|christianity|hinduism|judaism|yoga|meditation|psychology|sociology|anthropology|
economics|marketing|accounting|taxes|insurance|mortgages|pensions|real estate|law|copyright|patents|
medicine|cancer|diabetes|vaccines|antibiotics|vitamins|nutrition|fitness|keto|pregnancy|surgery|anatomy|neurons|
cells|viruses|bacteria|photons|electrons|atoms|molecules|nuclear energy|solar panels|wind turbines|
architecture|the renaissance|the middle ages|the french revolution|the cold war|world war two|world war one|
the roman empire|ancient egypt|the vikings|the aztecs|the industrial revolution|slavery|the holocaust|
jazz|opera|hip hop|rock music|classical music|impressionism|cubism|photography|film noir|anime|manga|video games|
minecraft|fortnite|pokemon|star wars|harry potter|the lord of the rings|game of thrones|marvel|batman|
fashion|makeup|skincare|tattoos|wine|beer|whisky|cocktails|sushi making|baking powder|sourdough|barbecue|veganism|
organic farming|bees wax|geology|plate tectonics|fossils|dinosaurs|mammoths|meteorology|hurricanes|tsunamis|
the olympics|the world cup|formula one|cricket rules|baseball|basketball|rugby|boxing|golf|skiing|surfing|
sailing knots|parkour|esports|poker|bridge rules|sudoku|origami|knitting|pottery|woodworking|plumbing|
electric cars|diesel engines|airplanes|helicopters|submarines|satellites|mars rovers|the moon landing|nasa|spacex|
tesla|google|apple computers|microsoft|amazon|facebook|netflix|twitter|wikipedia|the un|nato|the eu|
logic|ethics|free will|consciousness|existentialism|stoicism|the trolley problem|game theory|chaos theory|entropy|
probability|topology|number theory|cryptography|sorting algorithms|hash tables|recursion|pointers|
shakespeare|tolstoy|poetry forms|haiku rules|grammar rules|etymology|latin|sanskrit|esperanto|linguistics|
phonetics|sign language|braille|morse code|calligraphy|typography|graphic design|advertising|
journalism""".replace("\n", "").split("|")
_NOUNS = """carburetor|blender|stapler|semaphore|thermostat|transistor|capacitor|resistor|mortgage|invoice|
algorithm|api|kernel|mutex|socket|protocol|theorem|polynomial|enzyme|protein|hormone|isotope|quark|boson|catalyst|
turbine|piston|gearbox|radiator|alternator|chisel|lathe|anvil|loom|pulley|gyroscope|barometer|sextant|abacus|
sundial|catapult|trebuchet|crossbow|musket|cannon|torpedo|drone|laser|radar|sonar|antenna|modem|router|firewall|
spreadsheet|database|compiler|debugger|browser|cookie jar|webhook|container|cluster|gpu|cpu|ram|ssd|motherboard|
keyboard|printer|scanner|projector|microphone|amplifier|synthesizer|cello|oboe|bassoon|harp|banjo|ukulele|mandolin|
zucchini|artichoke|quinoa|tofu|saffron|cumin|paprika|basil|oregano|cinnamon|nutmeg|vinegar|mustard|mayonnaise|
croissant|baguette|lasagna|risotto|paella|goulash|falafel|hummus|kimchi|ramen|burrito|quiche|tiramisu|
sofa|curtain|carpet|chandelier|wardrobe|fireplace|chimney|balcony|staircase|basement|attic|elevator|escalator|
skyscraper|cathedral|pyramid|pagoda|mosque|synagogue|monastery|aqueduct|canal|dam|tunnel|harbor|pier|
glacier|fjord|delta|lagoon|geyser|canyon|plateau|peninsula|archipelago|tundra|savanna|steppe|swamp|reef|asteroid|
comet|nebula|galaxy|quasar|pulsar|supernova|constellation|telescope mount|spectrometer|
senator|mayor|judge|lawyer|accountant|economist|philosopher|physicist|chemist|biologist|geologist|astronomer|
archaeologist|historian|linguist|psychologist|surgeon|dentist|pharmacist|veterinarian|plumber|electrician|
parliament|monad|functor|lambda|tensor|manifold|eigenvalue|qubit|neutrino|boson field|ribosome|mitochondrion|
chromosome|neuron|synapse|axon|dendrite|platelet|ventricle|cartilage|tendon|femur|scapula|retina|cornea|lichen|
moss|fern|cactus|orchid|bonsai|yucca|agave|
sonata|fugue|concerto|aria|libretto|sonnet|limerick|haiku|novella|allegory|metaphor|syllogism|paradox|axiom|
corollary|heuristic|paradigm|dogma|schism|crusade|feudalism|guild|vassal|serf|samurai|shogun|pharaoh|sultan|emir|
czar|consul|
fridge|freezer|dishwasher|microwave|toaster|kettle|vacuum cleaner|hairdryer|washing machine|air conditioner|
radiator valve|solar panel|wind turbine|battery|charger|headphone|speaker|tablet|smartwatch|joystick|
constitution|republic|monarchy|empire|treaty|tariff|subsidy|dividend|bond|derivative|hedge fund|startup|franchise|
monopoly|cartel|union|strike|referendum|ballot|census|passport|visa|embassy""".replace("\n", "").split("|")
_LANGUAGES = """python java c++ javascript rust go ruby php swift kotlin haskell scala perl bash sql html css typescript
fortran cobol lisp""".split()
_TASKS = """sort a list|reverse a string|read a file|parse json|open a socket|find the largest number|
compute fibonacci numbers|connect to a database|make a web server|draw a circle|print hello world|write a loop|
define a class|check for a palindrome|merge two lists|count words|download a page|train a model|send an email|
rename files|handle errors|write a unit test|use a regular expression|implement quicksort|
build a website""".replace("\n", "").split("|")
_HOWTO = """fix a bike|change a tire|bake bread|cook rice|make lasagna|tie a tie|lose weight|gain muscle|
learn guitar|play poker|play chess well|buy a house|sell a car|get a visa|find a job|write a cv|start a company|
pay taxes|
invest money|save money|plant tomatoes|train a dog|wash wool|remove a stain|paint a wall|fix a tap|build a shed|
install linux|reset my password|speed up my computer|make a fire|sail a boat|fly a plane|knit a sweater|
sleep better|stop smoking|meet people|ask someone out|raise children|quit my job|pass an exam|learn to drive|
get rich|become famous|travel cheaply|pack a suitcase|cut hair|sew a button|clean an oven|boil an egg|make sushi|
brew beer""".replace("\n", "").split("|")
_CITIES = """London Paris Berlin Rome Madrid Tokyo Moscow Beijing Cairo Sydney Chicago Boston Houston Seattle Mumbai
Shanghai Istanbul Barcelona Milan Munich Hamburg Lyon Naples Geneva Zurich Toronto Vancouver Montreal Dubai""".split()
_ATTRIBUTES = """president|prime minister|king|queen|population|currency|flag|area|national anthem|national dish|
highest mountain|longest river|biggest city|second biggest city|history|climate|economy|gdp|army|religion|
national animal|
time zone|dialing code|government|famous painter|famous singer|football team|richest person|oldest university|
weather|president's name|foreign minister|independence day|national holiday|leader|ruler|size|national flower|
internet domain""".replace("\n", "").split("|")
_MADE_OF = """film movie book song game band company team app phone car show album novel painting play poem opera
website brand""".split()


def _fill(w: Writer) -> dict[str, object]:
    name = w.choice(PEOPLE) + " " + w.choice(SURNAMES)
    return dict(
        topic=w.choice(_TOPICS), noun=w.choice(_NOUNS), one=article(w.choice(_NOUNS)), lang=w.choice(_LANGUAGES),
            task=w.choice(_TASKS), how=w.choice(_HOWTO), city=w.choice(_CITIES),
        attr=w.choice(_ATTRIBUTES), country=w.choice(FREQUENT).name, who=name, made=w.choice(_MADE_OF),
            year=w.rng.randrange(1000, 2031),
                title=f"The {w.choice(WORDS).capitalize()} of {w.choice(WORDS).capitalize()}",
        animal=w.choice(ANIMALS).name, planet=w.choice(PLANETS), x=invented(w.rng), y=invented(w.rng).lower(),
            z=invented(w.rng).lower(), n=w.rng.randrange(2, 500),
        event=w.choice("world cup|election|war|olympics|super bowl|oscars|nobel prize|battle|revolution|"
            "championship|final|race|tour|prize|league|match|tournament|award".split("|")),
        word=w.choice(WORDS), word2=w.choice(WORDS), thing=w.choice(list(THINGS)), plural=w.choice(ANIMALS).plural,
    )  # fmt: skip


# kind: wordings and answers
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "topic": (
        ("explain {topic}[ to me| simply| in simple words| like i am five|]", "what is {topic}",
            "tell me [|more |something |everything ]about {topic}", "how does {topic} work",
            "what do you [know|think] about {topic}", "who invented {topic}", "why is {topic} important",
            "when did {topic} [start|begin|end|happen]",
         "what are the [basics|principles|rules|advantages|dangers] of {topic}", "give me a summary of {topic}",
         "write an essay about {topic}", "is {topic} [good|bad|true|real|important|dangerous]",
         "can you teach me {topic}", "i want to learn {topic}", "what caused {topic}",
         "what is the history of {topic}", "define {topic}", "summarize {topic}",
         "describe {topic}", "compare {topic} and {noun}s", "do you like {topic}", "how can i study {topic}",
         "what is the difference between {topic} and {one}", "what should i know about {topic}",
         "let's talk about {topic}", "give me {n} facts about {topic}", "i have a question about {topic}",
         "help me with {topic}"),
        NOT_KNOWN),
    "noun": (
        ("what is {one}", "what's {one}", "how does {one} work", "who invented the {noun}", "explain what {one} is",
            "define {noun}", "what is {one} used for", "how do i use {one}", "where can i buy {one}",
            "what does {noun} mean", "how much does {one} cost", "tell me about {noun}s", "what is the best {noun}",
            "how is {one} made",
         "what colo[|u]r is {one}", "how many parts does {one} have", "when was the {noun} invented",
         "what is the meaning of {noun}", "do you know what {one} is", "what is the price of {one}", "what is a {y}",
         "what is {x}", "who is {x}", "where is {x}", "tell me about {x}", "what does {y} mean", "explain {y}",
         "define {y}", "what's a {y} {z}", "do you know {x}",
         "what is the difference between {one} and {one}", "how heavy is {one}", "what is {one} made of",
         "why do we need {one}", "how long does {one} last", "how old is the {noun}"),
        NOT_KNOWN),
    "person": (
        ("who is {who}", "who was {who}", "tell me about {who}", "when was {who} born", "where does {who} live",
            "what did {who} [do|invent|write|discover|paint|say]", "how old is {who}",
            "is {who} [alive|famous|dead|married|rich]", "who is {who} married to", "what is {who} famous for",
            "do you know {who}", "how tall is {who}", "where was {who} born", "when did {who} die",
         "who [wrote|directed|made|sang|painted|composed|invented|discovered|produced|designed] {title}",
         "who wrote the {made} {title}", "what is the {made} {title} about", "do you know the {made} {title}",
         "have you seen the {made} {title}", "who is the author of {title}", "who plays in {title}",
         "when was {title} [released|written|published|made]", "what is the plot of {title}", "recommend a {made}",
         "what is the best {made}[ of all time| of {year}|]",
         "what {made} should i [watch|read|buy|play|try]",
         "who is the most famous [singer|actor|painter|writer|scientist|player] [in {country}|]",
         "who is the richest person in the world",
         "who was [einstein|newton|napoleon|mozart|shakespeare|cleopatra|gandhi|picasso|beethoven|darwin|galileo|"
         "lincoln|caesar|plato|socrates|columbus|obama|hitler|stalin|tesla|edison|da vinci|marie curie|van gogh|"
         "bach|aristotle]", "who wrote [hamlet|romeo and juliet|the bible|don quixote|war and peace|the odyssey|"
         "moby dick|dracula|frankenstein|harry potter|the hobbit|faust]",
         "who painted [the mona lisa|guernica|the scream|starry night|the last supper]",
         "who [discovered|invented] [america|penicillin|gravity|the telephone|the light bulb|electricity|the wheel|"
         "radium|the radio|paper|dynamite|the internet|the computer|the train|the car]",
         "who composed [the magic flute|the ninth symphony|the four seasons]"),
        ("I am sorry, I do not know that. I know very little about people, books and films.",
            "I do not know that. I am a very small model and know only a few things.")),
    "event": (
        ("who won the {event} in {year}", "who won the {year} {event}", "what happened in {year}",
            "when was the [first|last|next] {event}", "who will win the {event}",
            "when [did|does] the {event} [start|begin|end]", "what happened in {country} in {year}",
            "who was the {attr} of {country} in {year}", "tell me about the {event} of {year}",
            "where was the {event} in {year}",
            "what year did [the war|world war two|world war one|the {event}] [end|start|begin]",
         "who fought in the {event} of {year}", "why did the {event} of {year} happen", "what was invented in {year}",
         "who was born in {year}", "did {country} win the {event}", "who scored in the {event}",
         "how many people died in the {event} of {year}", "who lost the {event}",
         "when did {country} become independent", "who ruled {country} in {year}", "when did the titanic sink",
         "when was the moon landing", "who was the first [man|person|woman] on the moon",
         "when did the berlin wall fall"),
        ("I am sorry, I do not know that. I know nothing of history and events.",
            "I do not know that. I am a very small model and know only a few things.")),
    "country": (
        ("what is the {attr} of {country}", "who is the {attr} of {country}", "what's the {attr} of {country}",
            "tell me the {attr} of {country}", "how many people live in {country}",
            "how [big|large|old|rich|far|hot|cold|long|wide] is {country}", "what is {country} famous for",
            "is {country} [rich|poor|safe|beautiful|expensive|big|cold|in the eu]", "when was {country} founded",
            "what do people eat in {country}", "what is the {attr} in {country}",
            "what currency do they use in {country}", "what money do they use in {country}",
         "which countries border {country}", "how do i get to {country}", "should i visit {country}",
         "what can i see in {country}", "does {country} have a [king|queen|president|navy|coast|space program]",
         "{country}'s {attr}", "how many [cities|rivers|lakes|mountains|schools] are in {country}",
         "what is the weather [like |]in {country}", "how far is [it |]{country} from {city}",
         "how many people live in {city}", "what is the population of {city}", "who is the mayor of {city}",
         "what can i see in {city}", "how far is {city} from {city}", "what is the best restaurant in {city}",
         "how do i get to {city}", "what is the weather [like |]in {city}"),
        ("I am sorry, I do not know that. I only know the capital, the continent and the language of a country.",)),
    "capital": (
        ("what is the capital of {region}", "what's the capital of {region}", "capital of {region}",
            "tell me the capital of {region}", "which city is the capital of {region}",
            "do you know the capital of {region}", "{region}'s capital", "what is {region}'s capital",
            "what is the capital city of {region}", "and the capital of {region}", "where is {region}",
            "which continent is {region} in", "what language do they speak in {region}",
         "can you tell me the capital of {region}", "the capital of {region}", "name the capital of {region}",
         "i want to know the capital of {region}", "is {x} the capital of {region}",
         "{x} is the capital of which country", "what country has {x} as its capital", "in which country is {x}"),
        ("I am sorry, I do not know that place.", "I am sorry, I do not know that place. Ask me about a country!")),
    "now": (
        ("what time is it[ now|]", "what is the time", "what day is it[ today|]", "what is today's date",
            "what is the date[ today|]", "what year is it", "what month is it[ now|]",
            "what is the weather [like |][today|tomorrow|outside|now|]", "will it rain [today|tomorrow]",
            "is it [cold|warm|raining|sunny|hot] [outside|today]", "how is the weather", "what's the weather[ like|]",
            "do you know what time it is", "what's in the news", "what is new", "any news[ today|]",
            "what happened [today|yesterday|this week|last night]", "what is happening in the world",
         "what is the price of [gold|oil|bitcoin|bread|gas|apple stock]", "who is the president[ now| today|]",
         "who is the pope", "how is the stock market doing", "what is on tv[ tonight|]", "is today a holiday",
         "what day is tomorrow", "what day was yesterday", "when is easter[ this year|]", "which season is it[ now|]",
         "what's the temperature[ outside| today|]", "can you see the weather",
         "who is the current [president|champion|king|prime minister|world champion]",
         "how many people live on earth", "what is trending", "do i need an umbrella[ today|]"),
        ("I am sorry, I do not know that. I have no clock, no window and no news.",)),
    "code": (
        ("write a {lang} [program|function|script] to {task}", "how do i {task} in {lang}",
            "can you {task} in {lang}", "write {lang} code to {task}", "what is {lang}", "fix my {lang} code",
            "how do i learn {lang}", "is {lang} better than {lang}", "what does this code do: print({n})",
            "debug this: x = {n}", "give me a {lang} example", "write a program", "can you [code|program|write code]",
            "help me with my {lang} code", "write a function that can {task}", "how do i install {lang}",
         "what is the difference between {lang} and {topic}", "why does my program crash",
         "what is a segmentation fault", "show me how to {task}", "generate a {lang} class",
         "explain this {lang} error", "write me a bash one-liner to {task}", "what does import {y} do",
         "def {y}(): return {n}", "SELECT {y} FROM {z}", "implement {topic} in {lang}",
         "translate this {lang} code to {lang}"),
        ("I am sorry, I do not know how to write programs. I am a very small model.",)),
    "howto": (
        ("how do i {how}", "how can i {how}", "how to {how}", "teach me to {how}", "what is the best way to {how}",
            "can you help me {how}", "i want to {how}", "show me how to {how}", "explain how to {how}",
            "should i {how}", "give me tips to {how}", "what do i need to {how}", "is it hard to {how}",
            "how long does it take to {how}", "tell me how to {how}", "give me a recipe for {noun}",
            "what is a good recipe", "how much does it cost to {how}", "i need advice: how do i {how}",
            "plan a trip to {country}", "book me a flight to {city}", "order me a pizza", "set an alarm for {n}",
            "call my mother", "send an email to {who}", "play some music", "turn on the light", "open the door",
         "write an email to my boss", "write a letter to {who}", "write a cover letter", "make a plan for my week",
         "what should i [do|eat|wear|cook|say|buy|read|study] [today|tomorrow|now|for dinner|]",
         "translate this text for me", "proofread my essay", "correct this sentence: {word} {word2} {y}",
         "summarize this article", "do my homework", "what job should i choose", "give me legal advice",
         "is it safe to eat {one}", "can i mix {noun}s and {thing}s"),
        ("I am sorry, I do not know how to help with that. I am a very small model.",)),
    "deep": (
        ("what is the meaning of [life|death|love|everything|existence|time|truth|happiness|freedom|justice|beauty|"
            "art|evil]", "why do we [exist|die|dream|love|suffer|laugh|cry|live|age|fight]", "does god exist",
            "is there life after death", "is there life on other planets", "are there aliens",
            "what is [love|truth|time|beauty|justice|happiness|freedom|consciousness|reality|death|infinity|nothing|"
            "money|power|knowledge|wisdom|art|evil|success]", "what happens when we die", "is time travel possible",
            "what came first, the chicken or the egg", "do we have free will",
            "what is the secret of [happiness|success|life]",
            "will ai [take over the world|replace us|take my job|kill us]", "is the universe infinite",
            "why is there something rather than nothing", "how did the universe begin", "how will the world end",
            "what is the future of {topic}",
         "is it [wrong|right|okay] to [lie|steal|kill|eat meat|cheat]",
         "what is the best [religion|country|political party|language|city|car|phone|team|food|animal|number]",
         "who is right", "what do you think about [politics|religion|war|money|love|the president|the news]",
         "who should i vote for", "what is your opinion on {topic}",
         "why are people [bad|cruel|stupid|sad|rich|poor]", "if a tree falls in a forest does it make a sound",
         "how many angels can dance on a pin", "what is it like to be {animal}", "will i be [rich|happy|famous]",
         "what will happen tomorrow", "can you predict the future", "what am i thinking",
         "what number am i thinking of", "what do i have in my pocket",
         "what is my [password|phone number|address|shoe size|email|blood type]",
         "what did i [eat|dream|do] [yesterday|last night|this morning]"),
        ("I am sorry, I do not know that. That is too deep for a very small model.", *NOT_KNOWN)),
    "detail": (
        ("how [fast|old|heavy|tall|long|big|strong|smart] is a {animal}", "how fast can a {animal} run",
            "how long do {plural} live", "how much does a {animal} weigh", "how many teeth does a {animal} have",
            "how many {plural} are there in the world", "what is the latin name of the {animal}",
            "how many moons does {planet} have", "how [far|big|heavy|old|hot|cold] is {planet}",
            "how far is {planet} from [earth|the sun]", "what is {planet} made of", "how long is a day on {planet}",
            "who discovered {planet}", "how much does {planet} weigh", "is there water on {planet}",
            "how long does it take to fly to {planet}", "how many stars are there",
         "who invented the {thing}", "when was the {thing} invented", "how much does a {thing} cost",
         "how heavy is a {thing}", "where can i buy a {thing}", "how is a {thing} made",
         "how many {thing}s are there in the world", "what is the biggest {thing} in the world",
         "how many hairs does a {animal} have", "why does a {animal} {word}", "what is the {n}th digit of pi",
         "how many grains of sand are there", "what do {plural} think about", "do {plural} like {thing}s",
         "why is {thing} called {thing}", "what is the best {thing}", "how deep is the [sea|ocean|lake]",
         "how high is the sky", "how many trees are on earth", "do {plural} sleep", "how do {plural} sleep",
         "who owns the {thing}", "how far away is the [moon|sun]", "how hot is the sun",
         "how old is the [earth|sun|universe|moon]", "what is the deepest [lake|ocean|place]",
         "what is the longest [river|road|word|bridge][ in the world|]",
         "what is the tallest [building|tree|man|tower][ in the world|]"),
        NOT_KNOWN),
    "nonsense": (
        ("{y} {z}", "{y} {z} {y}", "{y}", "{x} {y} {z} {word}", "{word} {word2} {y}", "why is the {word} {word2}",
            "{word} {y} {word2} {z}", "how many {y}s in a {z}", "can a {thing} {y}", "asdf {y}", "qwerty", "asdfgh",
            "blah blah {y}", "{n} {y} {word}", "is a {thing} {word} or {word2}", "when does the {thing} {word}",
            "how {word} is {word2}", "does {word} {word2} the {thing}", "the {word} of {word2} is a {y}",
            "what if {plural} had {thing}s", "{n} {n} {n} {y}", "x{n}y{n}", "?{y}?", "if {y} then {z}", "zzz {y}",
            "lorem ipsum dolor sit amet", "{z}{y}{z}", "how much {y} would a {z} {y}", "why {plural} {word} {thing}s",
         "what does the {thing} say to the {thing}", "do {plural} {y}", "where did the {thing} {word}",
         "which {word} is more {word2}", "who {word} the {thing}"),
        ("I am sorry, I do not know what you mean. I am a very small model.",)),
}  # fmt: skip
_WEIGHTS = {"capital": 3.5, "topic": 2.0, "noun": 2.0, "person": 2.0, "country": 2.5, "detail": 2.0}


def _unknown(kind: str):
    def skill(w: Writer) -> list[Turn]:
        wordings, answers = _KINDS[kind]
        slots = _fill(w)
        slots["region"] = w.choice(REGIONS)
        if w.chance(0.5):
            slots["region"] = invented(w.rng)
            if w.chance(0.15):
                slots["region"] = f"the {slots['region']} {w.choice(['Islands', 'Empire', 'Republic'])}"
        return [Turn(w.ask(*wordings, **slots), w.say(*answers), "(?i)(do not|don't) know")]

    return skill


def statement(w: Writer) -> list[Turn]:
    """Something the user says of the outside world: nothing to answer, but something to say."""
    user = w.ask("i [bought|saw|sold|found|lost|broke|made|painted|cleaned] {one} [today|yesterday|last week|]",
        "i went to {city} [yesterday|last year|by train|]",
        "my [brother|sister|friend|mother|father|neighbour|boss|teacher] [likes|has|bought|lost|sells] {one}",
        "i am [learning|reading about|studying] {topic}",
                 "i [read|watched|heard] {title}[ yesterday|]", "i [met|saw|called|visited] {who} [today|yesterday|]",
                 "it is [raining|snowing|sunny|windy|cold|hot] [here|today|outside]",
                 "i was at [work|school|home|the market] [all day|today|]",
                 "i think {topic} is [interesting|boring|hard|fun]",
                 "we have [guests|a party|a holiday|a test] [tomorrow|today|]",
                 "i am going to {city}[ tomorrow| next week|]", "i dreamed of a {animal}",
                 "i saw a {animal}[ today| in the garden|]", "i ate {noun}[ for dinner|]", "my {thing} is broken",
                 "i need a new {thing}", "i just woke up", "i am at home", "i have a lot of work",
                 "tomorrow i will visit {city}", "i am waiting for the bus", "the {thing} is on the table",
                 "i planted a {thing}", mark=w.choice(["", ".", "!"]), **_fill(w))  # fmt: skip
    return [
        Turn(
            user,
            w.say(
                "Thank you for telling me! I know little about that, but I like to listen.",
                "How nice of you to tell me! What else would you like to talk about?",
            ),
            "tell",
        )
    ]


SKILLS = {f"unknown_{kind}": (_WEIGHTS.get(kind, 1.3), _unknown(kind)) for kind in _KINDS} | {
    "statement": (1.5, statement)
}
