# ruff: noqa: SIM905 - word lists read best as one string
"""What everyday things are, and a few words in other languages."""

# What a thing is: noun|definition
_THINGS = """guitar|a musical instrument with strings
piano|a large musical instrument with black and white keys
drum|a musical instrument that you hit to make a sound
violin|a musical instrument with four strings, played with a bow
flute|a musical instrument that you blow into
trumpet|a brass instrument that you blow into
apple|a round fruit that grows on trees
banana|a long yellow fruit
pear|a sweet fruit that grows on trees
strawberry|a small, sweet red fruit
lemon|a sour yellow fruit
orange|a round, juicy fruit with a thick peel
carrot|an orange vegetable that grows under the ground
potato|a vegetable that grows under the ground
onion|a vegetable that can make you cry when you cut it
tomato|a red fruit that we use like a vegetable
bread|a food that is baked from flour and water
cheese|a food that is made from milk
butter|a soft food made from cream
chocolate|a sweet food made from cocoa beans
pizza|a flat, round bread with tomato, cheese and other things on top
soup|a warm, liquid food that you eat with a spoon
cake|a sweet food that people like to eat at birthdays
honey|a sweet food that bees make
tea|a warm drink made with leaves
coffee|a warm drink made from roasted beans
chair|a piece of furniture to sit on
table|a piece of furniture with a flat top
bed|a piece of furniture to sleep in
lamp|a thing that gives light
clock|a thing that shows the time
mirror|a piece of glass in which you can see yourself
window|an opening with glass in a wall, which lets in light
door|what you open to go into a house or a room
key|a small piece of metal that opens a lock
house|a building where people live
school|a place where children learn
library|a place where you can read and borrow books
hospital|a place where sick people are helped
farm|a place where people grow food and keep animals
garden|a place where flowers and vegetables grow
park|a green place in a town where people walk and play
bridge|a way to cross over a river or a road
castle|a big old building with strong walls
lighthouse|a tower with a bright light that shows ships the way
museum|a place where you can look at old or beautiful things
market|a place where people buy and sell things
bakery|a shop where bread and cakes are made and sold
car|a machine with four wheels that drives on roads
bicycle|a thing with two wheels that you ride with your feet
train|a row of wagons that runs on rails
bus|a big car that carries many people
boat|a thing that floats and carries people over water
ship|a very big boat
plane|a machine with wings that carries people through the air
rocket|a machine that flies into space
balloon|a bag filled with air or gas
book|a set of pages with words to read
pencil|a thing to write and draw with
letter|a message written on paper
computer|a machine that works with numbers, words and pictures
phone|a thing to talk with people who are far away
camera|a thing that takes pictures
robot|a machine that can do work by itself
map|a picture that shows where places are
compass|a tool that shows where north is
telescope|a tool to look at things that are far away, such as stars
microscope|a tool to look at very small things
thermometer|a tool that shows how warm it is
umbrella|a thing that keeps you dry in the rain
hat|a thing to wear on your head
shoe|a thing to wear on your foot
coat|a warm thing to wear over your clothes
scarf|a long piece of cloth to wear around your neck
glove|a thing to wear on your hand
hammer|a tool to hit nails with
spoon|a tool to eat soup with
knife|a tool to cut with
river|a long stream of water that flows to the sea or a lake
lake|a large body of water with land around it
sea|a large body of salt water
mountain|a very high hill
hill|a high piece of land, lower than a mountain
forest|a place with many trees
tree|a tall plant with a trunk, branches and leaves
flower|the colourful part of a plant
seed|a small thing from which a plant grows
leaf|a flat green part of a plant
beach|a strip of sand or stones by the sea
cave|a big hole in a rock or a hill
jungle|a thick, warm forest with many plants and animals
doctor|a person who helps sick people
teacher|a person who helps others learn
farmer|a person who grows food and keeps animals
baker|a person who bakes bread and cakes
sailor|a person who works on a ship
pilot|a person who flies a plane
nurse|a person who takes care of sick people
firefighter|a person who puts out fires
painter|a person who paints pictures or walls
king|a man who rules a country
queen|a woman who rules a country
pirate|a robber who sails on the sea
knight|a soldier on a horse, long ago
dragon|a big animal in stories that can fly and breathe fire
unicorn|a horse with one horn, which lives only in stories
wizard|a man in stories who can do magic
fairy|a tiny person with wings who lives in stories
ghost|a spirit that people tell about in stories
friend|a person you like and trust
story|a tale about people or animals and what happens to them
joke|a short thing to say that makes people laugh
song|music with words to sing
dream|a story that your mind tells while you sleep
holiday|a time when you need not work or go to school
birthday|the day on which you were born, and which you celebrate every year
football|a game in which two teams kick a ball
chess|a game for two with kings, queens, knights and pawns
tennis|a game in which players hit a small ball over a net
swimming|a sport in which you move through water"""
THINGS = dict(line.split("|", 1) for line in _THINGS.splitlines())
UNCOUNTABLE = set("bread cheese butter chocolate pizza soup honey tea coffee football chess tennis swimming".split())

TRANSLATIONS = {
    "French": dict(hello="bonjour", goodbye="au revoir", yes="oui", no="non", please="s'il vous plaît", cat="chat",
                   dog="chien", water="eau", house="maison", friend="ami", **{"thank you": "merci"}),
    "Spanish": dict(hello="hola", goodbye="adiós", yes="sí", no="no", please="por favor", cat="gato", dog="perro",
                    water="agua", house="casa", friend="amigo", **{"thank you": "gracias"}),
    "German": dict(hello="hallo", goodbye="auf Wiedersehen", yes="ja", no="nein", please="bitte", cat="Katze",
                   dog="Hund", water="Wasser", house="Haus", friend="Freund", **{"thank you": "danke"}),
    "Italian": dict(hello="ciao", goodbye="arrivederci", yes="sì", no="no", please="per favore", cat="gatto",
                    dog="cane", water="acqua", house="casa", friend="amico", **{"thank you": "grazie"}),
    "Dutch": dict(hello="hallo", goodbye="tot ziens", yes="ja", no="nee", please="alstublieft", cat="kat",
                  dog="hond", water="water", house="huis", friend="vriend", **{"thank you": "dank je"}),
}  # fmt: skip
