"""Small facts told one by one.

Question wordings in the grammar of `writer.py`, then the answer after '=' and what must be in it after '#'.
"""

from typing import NamedTuple


class Fact(NamedTuple):
    questions: list[str]
    answer: str
    key: str


_FACTS = """
[what|which] is the [biggest|largest] planet
which planet is the [biggest|largest]
= The biggest planet in the solar system is Jupiter. # Jupiter
[what|which] is the smallest planet
which planet is the smallest
= The smallest planet is Mercury. # Mercury
[what|which] is the hottest planet
which planet is the hottest
= The hottest planet is Venus. # Venus
which planet is [closest|nearest] to the sun
what is the [closest|nearest] planet to the sun
= The planet closest to the Sun is Mercury. # Mercury
which planet is [farthest|furthest] from the sun
what is the [farthest|furthest] planet from the sun
= The planet farthest from the Sun is Neptune. # Neptune
which planet is [called |known as ]the red planet
what is the red planet
which planet is red
= Mars is called the red planet. # Mars
which planet has [the ]rings
what planet is famous for its rings
= Saturn is famous for its bright rings. # Saturn
[on ]which planet do [we|people|humans] live[ on]
what planet do [we|people] live on
[what's|what is] our planet called
= We live on planet Earth. # Earth
how many planets are there[ in the solar system]
how many planets [does the solar system have|are in our solar system]
= There are 8 planets in the solar system. # 8
[name|list|what are|tell me] [all ][of ]the planets[ in the solar system|]
can you [name|list] the planets[ in order|]
= The planets are Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune. # Mars, Jupiter
what is the sun
is the sun a star
what kind of thing is the sun
= The Sun is a star, the one closest to Earth. # star
what is the moon
does the earth have a moon
= The Moon is a ball of rock that goes around the Earth. # Earth
how long does the earth take to go around the sun
how long does it take the earth to [go around|orbit] the sun
= The Earth takes one year to go around the Sun. # year
how long does the earth take to [turn|spin] once
how long does it take the earth to [turn|spin] around once
= The Earth turns around once in one day, which is 24 hours. # 24
what is the solar system
= The solar system is the Sun and all that goes around it: 8 planets, their moons and many small rocks. # Sun
what is a star
what are stars
= A star is a huge, hot ball of gas that shines. # gas
what is a planet
= A planet is a big round body that goes around a star. # star
what is gravity
what does gravity do
= Gravity is the force that pulls things toward each other. It is why things fall down. # force
why do things fall[ down|]
= Things fall down because gravity pulls them toward the Earth. # gravity
why is the sky blue
= The sky is blue because the air scatters blue light from the Sun more than the other colours. # light
why is grass green
why are [leaves|plants] green
= Plants are green because of a green stuff called chlorophyll, which catches sunlight. # chlorophyll
what is water made of
what is the chemical formula of water
what is h2o
= Water is made of hydrogen and oxygen. Its formula is H2O. # hydrogen
what is ice
what does water become when it freezes
what happens when water freezes
= Ice is frozen water. # frozen
when does water freeze
at what temperature does water freeze
what is the freezing point of water
= Water freezes at 0 degrees Celsius. # 0
when does water boil
at what temperature does water boil
what is the boiling point of water
= Water boils at 100 degrees Celsius. # 100
what is steam
what happens when water boils
= When water boils, it turns into steam. # steam
what do plants need to [grow|live]
what does a plant need
= Plants need light, water, air and soil to grow. # water
what is photosynthesis
how do plants make [their |]food
= Plants make their food from sunlight, water and air. This is called photosynthesis. # sunlight
what do we breathe
what do [people|humans] need to breathe
which gas do we need to breathe
= We breathe air, and our bodies need the oxygen in it. # oxygen
what is air made of
= Air is mostly nitrogen, with about one fifth oxygen. # nitrogen
what is rain
where does rain come from
why does it rain
= Rain is water that falls from the clouds in drops. # clouds
what are clouds made of
what is a cloud
= Clouds are made of tiny drops of water or bits of ice. # water
what is snow[ made of|]
= Snow is made of tiny crystals of ice that fall from clouds. # ice
what is a rainbow
how [does a rainbow form|do rainbows form]
= A rainbow forms when sunlight shines through drops of rain. # rain
[what are|name|list|tell me] the colo[|u]rs of the rainbow
how many colo[|u]rs [are in|does] [a|the] rainbow[| have]
= The seven colours of the rainbow are red, orange, yellow, green, blue, indigo and violet. # indigo
what is wind
what makes the wind
= Wind is air that moves. # air
what is thunder
what is lightning
= Lightning is a big electric spark in the sky, and thunder is the sound it makes. # spark
what is a volcano
= A volcano is a mountain where hot melted rock can come out of the Earth. # rock
what is an earthquake
= An earthquake is a shaking of the ground when rock deep in the Earth moves. # ground
what is a desert
= A desert is a very dry place where little rain falls. # dry
what is an island
= An island is land with water all around it. # water
what is an ocean
what is the ocean
= An ocean is a very large body of salt water. # salt
[what are|name|list] the oceans
how many oceans are there
= There are five oceans: the Pacific, the Atlantic, the Indian, the Arctic and the Southern Ocean. # Pacific
[what|which] is the [biggest|largest] ocean
which ocean is the [biggest|largest]
= The biggest ocean is the Pacific Ocean. # Pacific
[what|which] is the [highest|tallest] mountain[ in the world| on earth|]
which mountain is the [highest|tallest]
= The highest mountain in the world is Mount Everest. # Everest
how many continents are there
[name|list|what are] the continents
= There are seven continents: Africa, Antarctica, Asia, Europe, North America, Oceania and South America. # seven
[what|which] is the [biggest|largest] continent
which continent is the [biggest|largest]
= The biggest continent is Asia. # Asia
[what|which] is the [biggest|largest] country[ in the world|]
which country is the [biggest|largest]
= The biggest country in the world by area is Russia. # Russia
[what|which] is the smallest country[ in the world|]
which country is the smallest
= The smallest country in the world is Vatican City. # Vatican
[what is|what's] the coldest continent
which continent is the coldest
= The coldest continent is Antarctica. # Antarctica
what is the capital of south africa
= South Africa has three capitals: Pretoria, Cape Town and Bloemfontein. # Pretoria
what is the capital of bolivia
= Sucre is the capital of Bolivia by its constitution, and its government sits in La Paz. # Sucre
[what is|what's] the [biggest|largest] animal[ in the world|]
which animal is the [biggest|largest]
= The biggest animal in the world is the blue whale. # whale
[what is|what's] the [biggest|largest] land animal
which land animal is the [biggest|largest]
= The biggest land animal is the elephant. # elephant
[what is|what's] the tallest animal[ in the world|]
which animal is the tallest
which animal has [a|the longest|a very long] neck
= The giraffe is the tallest animal. It has a very long neck. # giraffe
[what is|what's] the fastest [land animal|animal on land]
which [land |]animal is the fastest
which animal runs the fastest
= The fastest land animal is the cheetah. # cheetah
[what is|what's] the [biggest|largest] bird
which bird is the [biggest|largest]
= The biggest bird is the ostrich. # ostrich
which birds cannot fly
name a bird that [cannot|can't] fly
= Penguins and ostriches are birds that cannot fly. # enguin
which animal makes honey
who makes honey
where does honey come from
= Bees make honey. # Bees
where does milk come from
which animal gives [us |]milk
= Most of the milk that people drink comes from cows. # cow
where do eggs come from
which animal lays eggs
= The eggs that people eat mostly come from chickens. # chicken
where does wool come from
which animal gives [us |]wool
= Wool comes from sheep. # sheep
which animal has a trunk
which animal has a long nose called a trunk
= The elephant has a trunk. # lephant
which animal has black and white stripes
which animal has stripes
= The zebra has black and white stripes. # ebra
which animal is called the king of [the jungle|animals|beasts]
who is the king of the jungle
= The lion is called the king of the jungle. # lion
what does a caterpillar [become|turn into]
= A caterpillar turns into a butterfly. # butterfly
what does a tadpole [become|turn into]
= A tadpole turns into a frog. # frog
what is a mammal
= A mammal is an animal that feeds its babies with milk. Most mammals have hair or fur. # milk
what is a bird
= A bird is an animal with feathers, wings and a beak. # feathers
what is a fish
= A fish is an animal that lives in water and breathes through gills. # water
what is a reptile
= A reptile is an animal with dry, scaly skin, such as a snake or a lizard. # skin
what is an amphibian
= An amphibian is an animal that lives both in water and on land, such as a frog. # water
what is an insect
= An insect is a small animal with six legs. # six
how many legs does an insect have
how many legs do insects have
= An insect has 6 legs. # 6
how many arms does an octopus have
= An octopus has 8 arms. # 8
how many hearts does an octopus have
= An octopus has three hearts. # three
how many legs do [people|humans] have
how many legs does a [person|human] have
= A person has 2 legs. # 2
how many fingers do [people|humans|we] have
how many fingers does a [person|human|hand] have
= A person has 10 fingers, five on each hand. # five
how many [eyes|ears|hands] does a [person|human] have
how many [eyes|ears|hands] do [people|humans] have
= A person has two of those. # two
how many bones [are there in|does] [the|a] human body[| have]
= A grown person has 206 bones. # 206
what does the heart do
what is the heart for
= The heart pumps blood through the body. # blood
what does the brain do
what is the brain for
= The brain thinks, and it controls the rest of the body. # thinks
what do [the |]lungs do
what are lungs for
= The lungs take oxygen from the air into the blood. # oxygen
what are the five senses
[name|list] the [five |]senses
how many senses do [people|we] have
= The five senses are sight, hearing, smell, taste and touch. # hearing
what do we [see|look] with
= We see with our eyes. # eyes
what do we hear with
= We hear with our ears. # ears
what do we smell with
= We smell with our nose. # nose
how many days are [there |]in a week
how many days does a week have
= There are 7 days in a week. # 7
how many days are [there |]in a year
how many days does a year have
= There are 365 days in a year, and 366 in a leap year. # 365
how many months are [there |]in a year
how many months does a year have
= There are 12 months in a year. # 12
how many weeks are [there |]in a year
= There are 52 weeks in a year. # 52
how many hours are [there |]in a day
how many hours does a day have
= There are 24 hours in a day. # 24
how many minutes are [there |]in an hour
how many minutes does an hour have
= There are 60 minutes in an hour. # 60
how many seconds are [there |]in a minute
how many seconds does a minute have
= There are 60 seconds in a minute. # 60
how many years are [there |]in a century
how long is a century
= A century is 100 years. # 100
how many years are [there |]in a decade
how long is a decade
= A decade is 10 years. # 10
what is a leap year
= A leap year has 366 days. February then has 29 days. # 366
[what are|name|list|tell me] the days of the week
= The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday. # Wednesday
[what are|name|list|tell me] the months[ of the year|]
= The months are January, February, March, April, May, June, July, August, September, October, November and December. # March
[what are|name|list|tell me] the [four |]seasons
how many seasons are there
= The four seasons are spring, summer, autumn and winter. # autumn
which is the shortest month
[what is|what's] the shortest month
= The shortest month is February. # February
[what is|what's] the [first|coldest] season of the year
= A year has four seasons: spring, summer, autumn and winter. # four
which days are the weekend
what is the weekend
= The weekend is Saturday and Sunday. # Saturday
how many sides does a triangle have
what is a triangle
= A triangle is a shape with 3 sides. # 3
how many sides does a square have
what is a square
= A square is a shape with 4 equal sides. # 4
how many sides does a rectangle have
what is a rectangle
= A rectangle is a shape with 4 sides and 4 right angles. # 4
how many sides does a pentagon have
what is a pentagon
= A pentagon is a shape with 5 sides. # 5
how many sides does a hexagon have
what is a hexagon
= A hexagon is a shape with 6 sides. # 6
how many sides does an octagon have
what is an octagon
= An octagon is a shape with 8 sides. # 8
how many sides does a circle have
what is a circle
= A circle is a round shape with no corners. # round
how many letters are [there |]in the alphabet
how many letters does the [english |]alphabet have
= The English alphabet has 26 letters. # 26
[say|recite|tell me|what is|write] the alphabet
= The alphabet is A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z. # L, M, N
[what are|name|list] the vowels
which letters are vowels
= The vowels are A, E, I, O and U. # A, E, I
how many centimet[er|re]s are [there |]in a met[er|re]
= There are 100 centimetres in a metre. # 100
how many met[er|re]s are [there |]in a kilomet[er|re]
= There are 1000 metres in a kilometre. # 1000
how many grams are [there |]in a kilo[gram|]
= There are 1000 grams in a kilogram. # 1000
how many is a dozen
how many eggs are [there |]in a dozen
= A dozen is 12. # 12
how many wheels does a [car|truck] have
= It usually has 4 wheels. # 4
how many wheels does a [bicycle|bike] have
= A bicycle has 2 wheels. # 2
how many wheels does a tricycle have
= A tricycle has 3 wheels. # 3
how many strings does a guitar have
= A guitar usually has 6 strings. # 6
how many keys does a piano have
= A piano usually has 88 keys. # 88
how many players are [there |]in a [football|soccer] team
= A football team has 11 players on the field. # 11
what are the primary colo[|u]rs
= The primary colours of paint are red, yellow and blue. # yellow
where does the sun rise
= The Sun rises in the east. # east
where does the sun set
= The Sun sets in the west. # west
[what are|name] the four directions
= The four directions are north, east, south and west. # south
what melts when it gets warm
= Ice and snow melt when it gets warm. # Ice
what is electricity
= Electricity is a kind of energy that makes lamps shine and machines run. # energy
what is a magnet
what does a magnet do
= A magnet pulls things that are made of iron. # iron
what is fire
= Fire is what we see when something burns. It gives light and heat. # burn
what is sound
= Sound is a shaking of the air that our ears can hear. # air
what is light
= Light is what lets us see. It comes from the Sun, from lamps and from fire. # see
which is faster[,|] light or sound
what is faster[,|] light or sound
= Light is faster than sound. # Light is
which is heavier[,|] a kilo of feathers or a kilo of iron
what weighs more[,|] a kilo of feathers or a kilo of [iron|bricks|stones]
= They weigh the same: a kilo is a kilo. # same
does ice float[ on water|]
= Yes, ice floats on water. # Yes
does a stone float[ on water|]
= No, a stone sinks in water. # sinks
is the earth [flat|round]
what shape is the earth
= The Earth is round, like a ball. # round
is the sun bigger than the earth
which is bigger[,|] the sun or the earth
= The Sun is much bigger than the Earth. # Sun is much bigger
is the moon bigger than the earth
which is bigger[,|] the moon or the earth
= The Earth is bigger than the Moon. # Earth is bigger
is a whale a fish
= No, a whale is a mammal, although it lives in the ocean. # mammal
is a bat a bird
= No, a bat is a mammal that can fly. # mammal
is a spider an insect
= No, a spider is an arachnid. It has 8 legs. # arachnid
is a tomato a fruit
= Yes, a tomato is a fruit, although we use it like a vegetable. # fruit
is a penguin a bird
= Yes, a penguin is a bird, although it cannot fly. # Yes
do fish breathe
how do fish breathe
= Fish breathe in water, through their gills. # gills
why do birds have wings
= Most birds use their wings to fly. # fly
why do we sleep
= We sleep so that the body and the brain can rest. # rest
why do we eat
= We eat because food gives the body energy. # energy
what is the meaning of life
= I do not know that. People have asked it for a very long time, and I am only a very small model. # not know
"""  # noqa: E501


def _parse() -> list[Fact]:
    facts: list[Fact] = []
    questions: list[str] = []
    for line in _FACTS.strip().splitlines():
        if line.startswith("= "):
            answer, key = line[2:].rsplit(" # ", 1)
            facts.append(Fact(questions, answer, key))
            questions = []
        else:
            questions.append(line)
    return facts


FACTS = _parse()
