# ruff: noqa: SIM905 - word lists read best as one string
"""Animals, planets, colours, calendar and opposites of the demo world."""

from typing import NamedTuple


class Animal(NamedTuple):
    name: str
    plural: str
    kind: str
    legs: str
    sound: str
    baby: str
    food: str
    home: str


# name|plural|kind|legs|sound as a verb|baby|food|home; '-' where there is no plain answer.
_ANIMALS = """
dog|dogs|mammal|4|bark|puppy|meat and dog food|in homes with people
cat|cats|mammal|4|meow|kitten|meat and fish|in homes with people
cow|cows|mammal|4|moo|calf|grass and hay|on farms
horse|horses|mammal|4|neigh|foal|grass and oats|on farms and in stables
sheep|sheep|mammal|4|bleat|lamb|grass|on farms and hills
goat|goats|mammal|4|bleat|kid|grass and leaves|on farms and mountains
pig|pigs|mammal|4|oink|piglet|roots, grain and vegetables|on farms
donkey|donkeys|mammal|4|bray|foal|grass and hay|on farms
lion|lions|mammal|4|roar|cub|meat|in the grasslands of Africa
tiger|tigers|mammal|4|roar|cub|meat|in the forests of Asia
bear|bears|mammal|4|growl|cub|berries, fish and honey|in forests and mountains
polar bear|polar bears|mammal|4|growl|cub|seals and fish|on the ice of the Arctic
wolf|wolves|mammal|4|howl|pup|meat|in forests and mountains
fox|foxes|mammal|4|bark|kit|mice, birds and berries|in forests and fields
rabbit|rabbits|mammal|4|-|kit|grass and carrots|in burrows under the ground
mouse|mice|mammal|4|squeak|pup|seeds and grain|in fields and houses
elephant|elephants|mammal|4|trumpet|calf|grass, leaves and fruit|in Africa and Asia
giraffe|giraffes|mammal|4|-|calf|leaves from tall trees|in the grasslands of Africa
zebra|zebras|mammal|4|-|foal|grass|in the grasslands of Africa
hippo|hippos|mammal|4|-|calf|grass|in the rivers of Africa
rhino|rhinos|mammal|4|-|calf|grass and leaves|in Africa and Asia
camel|camels|mammal|4|-|calf|grass and desert plants|in deserts
kangaroo|kangaroos|mammal|-|-|joey|grass|in Australia
koala|koalas|mammal|4|-|joey|eucalyptus leaves|in the trees of Australia
panda|pandas|mammal|4|-|cub|bamboo|in the mountains of China
monkey|monkeys|mammal|-|chatter|infant|fruit, leaves and insects|in warm forests
gorilla|gorillas|mammal|-|-|infant|leaves and fruit|in the forests of Africa
squirrel|squirrels|mammal|4|chatter|kit|nuts and seeds|in trees
hedgehog|hedgehogs|mammal|4|-|hoglet|insects and worms|in gardens and hedges
deer|deer|mammal|4|-|fawn|grass and leaves|in forests
bat|bats|mammal|-|squeak|pup|insects and fruit|in caves and trees
whale|whales|mammal|0|sing|calf|small sea animals|in the ocean
dolphin|dolphins|mammal|0|click and whistle|calf|fish|in the ocean
seal|seals|mammal|-|bark|pup|fish|in cold seas and on the coast
otter|otters|mammal|4|-|pup|fish and shellfish|in rivers and along coasts
beaver|beavers|mammal|4|-|kit|bark and plants|in rivers, where they build dams
chicken|chickens|bird|2|cluck|chick|grain and worms|on farms
rooster|roosters|bird|2|crow|chick|grain and worms|on farms
duck|ducks|bird|2|quack|duckling|water plants and insects|on ponds and lakes
goose|geese|bird|2|honk|gosling|grass and grain|on farms and lakes
swan|swans|bird|2|-|cygnet|water plants|on lakes and rivers
turkey|turkeys|bird|2|gobble|chick|seeds and insects|on farms and in woods
owl|owls|bird|2|hoot|owlet|mice|in forests and barns
eagle|eagles|bird|2|screech|eaglet|fish and small animals|in mountains and near lakes
parrot|parrots|bird|2|squawk|chick|seeds and fruit|in warm forests
pigeon|pigeons|bird|2|coo|squab|seeds and crumbs|in towns and cities
penguin|penguins|bird|2|-|chick|fish|in the cold south, many of them in Antarctica
ostrich|ostriches|bird|2|-|chick|plants and seeds|in the grasslands of Africa
crow|crows|bird|2|caw|chick|seeds, insects and scraps|in fields and towns
flamingo|flamingos|bird|2|-|chick|shrimp and algae|in warm, shallow lakes
shark|sharks|fish|0|-|pup|fish and seals|in the ocean
salmon|salmon|fish|0|-|fry|small fish and insects|in rivers and the ocean
goldfish|goldfish|fish|0|-|fry|plants and fish food|in ponds and fish tanks
tuna|tuna|fish|0|-|fry|smaller fish|in the ocean
snake|snakes|reptile|0|hiss|hatchling|mice and other small animals|in forests, fields and deserts
crocodile|crocodiles|reptile|4|-|hatchling|fish and meat|in warm rivers
turtle|turtles|reptile|4|-|hatchling|plants and small animals|in ponds and the sea
lizard|lizards|reptile|4|-|hatchling|insects|in warm, dry places
frog|frogs|amphibian|4|croak|tadpole|insects|in ponds
toad|toads|amphibian|4|croak|tadpole|insects|in gardens and damp places
newt|newts|amphibian|4|-|-|insects and worms|in ponds and damp places
bee|bees|insect|6|buzz|larva|nectar and pollen|in hives
ant|ants|insect|6|-|larva|seeds, sugar and other insects|in nests under the ground
butterfly|butterflies|insect|6|-|caterpillar|nectar|in gardens and meadows
fly|flies|insect|6|buzz|maggot|almost anything sweet or rotten|nearly everywhere
beetle|beetles|insect|6|-|larva|plants and other insects|nearly everywhere
mosquito|mosquitoes|insect|6|buzz|larva|nectar and, for the females, blood|near still water
grasshopper|grasshoppers|insect|6|chirp|nymph|grass and leaves|in meadows
cricket|crickets|insect|6|chirp|nymph|plants and small insects|in meadows
spider|spiders|arachnid|8|-|spiderling|insects|in webs, gardens and houses
scorpion|scorpions|arachnid|8|-|-|insects|in deserts and warm places
crab|crabs|crustacean|10|-|-|algae and small sea animals|on the sea shore
lobster|lobsters|crustacean|10|-|-|small sea animals|on the floor of the sea
octopus|octopuses|mollusc|-|-|-|crabs and shellfish|in the ocean
snail|snails|mollusc|0|-|-|leaves|in gardens
worm|worms|invertebrate|0|-|-|dead leaves|in the soil
"""
ANIMALS = [Animal(*line.split("|")) for line in _ANIMALS.strip().splitlines()]
FLYERS = set("bat owl eagle parrot pigeon crow duck goose swan flamingo bee butterfly fly mosquito".split())
NON_FLYERS = set("penguin ostrich dog cat cow horse elephant lion snake frog shark rabbit mouse pig fox bear".split())
SWIMMERS = set("whale dolphin seal shark salmon goldfish tuna penguin duck otter crocodile octopus".split())

PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]
PLANET_FACTS = {
    "Mercury": "Mercury is the smallest planet and the closest one to the Sun.",
    "Venus": "Venus is the hottest planet and the second from the Sun.",
    "Earth": "Earth is the third planet from the Sun, and the one we live on.",
    "Mars": "Mars is the red planet, the fourth from the Sun.",
    "Jupiter": "Jupiter is the biggest planet in the solar system, the fifth from the Sun.",
    "Saturn": "Saturn is the planet with the bright rings, the sixth from the Sun.",
    "Uranus": "Uranus is a cold planet that lies on its side, the seventh from the Sun.",
    "Neptune": "Neptune is a cold blue planet, the farthest one from the Sun.",
}
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
SEASONS = ["spring", "summer", "autumn", "winter"]
SEASON_FACTS = {
    "spring": "In spring the days grow longer, flowers open and birds build their nests.",
    "summer": "Summer is the warmest season, with long days and short nights.",
    "autumn": "In autumn the leaves turn red and yellow and fall from the trees.",
    "winter": "Winter is the coldest season, with short days and, in many places, snow.",
}

# thing|verb|colour
COLOURED = """the sky|is|blue
grass|is|green
a banana|is|yellow
a lemon|is|yellow
snow|is|white
milk|is|white
coal|is|black
a ripe tomato|is|red
a strawberry|is|red
blood|is|red
a carrot|is|orange
a pumpkin|is|orange
an orange|is|orange
the Sun|looks|yellow
a leaf|is|green
a frog|is often|green
a cucumber|is|green
a flamingo|is|pink
a pig|is often|pink
chocolate|is|brown
a polar bear|is|white
a swan|is usually|white
a crow|is|black
an elephant|is|grey
a cherry|is|red
a fire engine|is often|red
the sea|looks|blue
a plum|is often|purple
an aubergine|is|purple
a sunflower|is|yellow
broccoli|is|green
salt|is|white
spinach|is|green
a raspberry|is|red
a blueberry|is|blue
charcoal|is|black
gold|is|yellow
silver|is|grey
a zebra|is|black and white
a panda|is|black and white
a penguin|is|black and white
a ladybird|is|red with black spots
a bee|is|yellow and black
a tiger|is|orange with black stripes""".splitlines()
MIXES = [
    ("red", "blue", "purple"), ("blue", "yellow", "green"), ("red", "yellow", "orange"), ("red", "white", "pink"),
    ("black", "white", "grey"), ("red", "green", "brown"), ("blue", "white", "light blue"),
]  # fmt: skip
COLOURS = "red blue green yellow orange purple pink brown black white grey turquoise gold silver violet".split()

OPPOSITES = [
    pair.split("-")
    for pair in """hot-cold big-small tall-short fast-slow happy-sad up-down left-right day-night open-closed
old-young hard-soft wet-dry light-dark full-empty rich-poor strong-weak early-late near-far high-low black-white
clean-dirty loud-quiet long-short heavy-light good-bad right-wrong true-false yes-no in-out on-off first-last
front-back top-bottom inside-outside begin-end start-stop push-pull give-take buy-sell win-lose love-hate
laugh-cry come-go always-never before-after above-below many-few more-less thick-thin wide-narrow deep-shallow
sweet-sour smooth-rough sharp-blunt brave-afraid kind-cruel cheap-expensive easy-difficult safe-dangerous
asleep-awake alive-dead sick-healthy noisy-silent beautiful-ugly new-old warm-cool summer-winter north-south
east-west friend-enemy question-answer arrive-leave remember-forget find-lose build-destroy lend-borrow
teach-learn float-sink rise-fall raise-lower accept-refuse same-different simple-complicated possible-impossible
polite-rude honest-dishonest lucky-unlucky tidy-messy patient-impatient visible-invisible success-failure
entrance-exit victory-defeat maximum-minimum hello-goodbye king-queen boy-girl man-woman mother-father
brother-sister uncle-aunt heaven-hell war-peace lock-unlock create-destroy increase-decrease""".split()
]
