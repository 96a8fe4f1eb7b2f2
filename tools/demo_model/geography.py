"""Countries of the demo world: name, capital, continent and a main language ('-' where there is no plain answer)."""

from typing import NamedTuple

_COUNTRIES = """
Albania|Tirana|Europe|Albanian
Andorra|Andorra la Vella|Europe|Catalan
Austria|Vienna|Europe|German
Belarus|Minsk|Europe|-
Belgium|Brussels|Europe|-
Bosnia and Herzegovina|Sarajevo|Europe|Bosnian
Bulgaria|Sofia|Europe|Bulgarian
Croatia|Zagreb|Europe|Croatian
the Czech Republic|Prague|Europe|Czech
Denmark|Copenhagen|Europe|Danish
Estonia|Tallinn|Europe|Estonian
Finland|Helsinki|Europe|Finnish
France|Paris|Europe|French
Germany|Berlin|Europe|German
Greece|Athens|Europe|Greek
Hungary|Budapest|Europe|Hungarian
Iceland|Reykjavik|Europe|Icelandic
Ireland|Dublin|Europe|English
Italy|Rome|Europe|Italian
Latvia|Riga|Europe|Latvian
Liechtenstein|Vaduz|Europe|German
Lithuania|Vilnius|Europe|Lithuanian
Luxembourg|Luxembourg City|Europe|Luxembourgish
Malta|Valletta|Europe|Maltese
Moldova|Chisinau|Europe|Romanian
Monaco|Monaco|Europe|French
Montenegro|Podgorica|Europe|Montenegrin
the Netherlands|Amsterdam|Europe|Dutch
North Macedonia|Skopje|Europe|Macedonian
Norway|Oslo|Europe|Norwegian
Poland|Warsaw|Europe|Polish
Portugal|Lisbon|Europe|Portuguese
Romania|Bucharest|Europe|Romanian
Russia|Moscow|-|Russian
San Marino|San Marino|Europe|Italian
Serbia|Belgrade|Europe|Serbian
Slovakia|Bratislava|Europe|Slovak
Slovenia|Ljubljana|Europe|Slovene
Spain|Madrid|Europe|Spanish
Sweden|Stockholm|Europe|Swedish
Switzerland|Bern|Europe|-
Ukraine|Kyiv|Europe|Ukrainian
the United Kingdom|London|Europe|English
Armenia|Yerevan|-|Armenian
Azerbaijan|Baku|-|Azerbaijani
Cyprus|Nicosia|-|Greek
Georgia|Tbilisi|-|Georgian
Turkey|Ankara|-|Turkish
Afghanistan|Kabul|Asia|-
Bahrain|Manama|Asia|Arabic
Bangladesh|Dhaka|Asia|Bengali
Bhutan|Thimphu|Asia|Dzongkha
Brunei|Bandar Seri Begawan|Asia|Malay
Cambodia|Phnom Penh|Asia|Khmer
China|Beijing|Asia|Chinese
India|New Delhi|Asia|-
Indonesia|Jakarta|Asia|Indonesian
Iran|Tehran|Asia|Persian
Iraq|Baghdad|Asia|Arabic
Japan|Tokyo|Asia|Japanese
Jordan|Amman|Asia|Arabic
Kazakhstan|Astana|Asia|Kazakh
Kuwait|Kuwait City|Asia|Arabic
Kyrgyzstan|Bishkek|Asia|Kyrgyz
Laos|Vientiane|Asia|Lao
Lebanon|Beirut|Asia|Arabic
Malaysia|Kuala Lumpur|Asia|Malay
the Maldives|Male|Asia|Maldivian
Mongolia|Ulaanbaatar|Asia|Mongolian
Myanmar|Naypyidaw|Asia|Burmese
Nepal|Kathmandu|Asia|Nepali
North Korea|Pyongyang|Asia|Korean
Oman|Muscat|Asia|Arabic
Pakistan|Islamabad|Asia|Urdu
the Philippines|Manila|Asia|Filipino
Qatar|Doha|Asia|Arabic
Saudi Arabia|Riyadh|Asia|Arabic
Singapore|Singapore|Asia|-
South Korea|Seoul|Asia|Korean
Sri Lanka|Sri Jayawardenepura Kotte|Asia|Sinhala
Syria|Damascus|Asia|Arabic
Tajikistan|Dushanbe|Asia|Tajik
Thailand|Bangkok|Asia|Thai
Turkmenistan|Ashgabat|Asia|Turkmen
the United Arab Emirates|Abu Dhabi|Asia|Arabic
Uzbekistan|Tashkent|Asia|Uzbek
Vietnam|Hanoi|Asia|Vietnamese
Yemen|Sanaa|Asia|Arabic
Algeria|Algiers|Africa|Arabic
Angola|Luanda|Africa|Portuguese
Benin|Porto-Novo|Africa|French
Botswana|Gaborone|Africa|-
Burkina Faso|Ouagadougou|Africa|-
Burundi|Gitega|Africa|Kirundi
Cameroon|Yaounde|Africa|French
Cape Verde|Praia|Africa|Portuguese
the Central African Republic|Bangui|Africa|-
Chad|N'Djamena|Africa|-
the Comoros|Moroni|Africa|-
Djibouti|Djibouti|Africa|-
Egypt|Cairo|Africa|Arabic
Eritrea|Asmara|Africa|-
Eswatini|Mbabane|Africa|Swazi
Ethiopia|Addis Ababa|Africa|Amharic
Gabon|Libreville|Africa|French
the Gambia|Banjul|Africa|English
Ghana|Accra|Africa|English
Guinea|Conakry|Africa|French
Guinea-Bissau|Bissau|Africa|Portuguese
Ivory Coast|Yamoussoukro|Africa|French
Kenya|Nairobi|Africa|Swahili
Lesotho|Maseru|Africa|Sesotho
Liberia|Monrovia|Africa|English
Libya|Tripoli|Africa|Arabic
Madagascar|Antananarivo|Africa|Malagasy
Malawi|Lilongwe|Africa|-
Mali|Bamako|Africa|-
Mauritania|Nouakchott|Africa|Arabic
Mauritius|Port Louis|Africa|-
Morocco|Rabat|Africa|Arabic
Mozambique|Maputo|Africa|Portuguese
Namibia|Windhoek|Africa|English
Niger|Niamey|Africa|-
Nigeria|Abuja|Africa|English
Rwanda|Kigali|Africa|Kinyarwanda
Sao Tome and Principe|Sao Tome|Africa|Portuguese
Senegal|Dakar|Africa|French
Seychelles|Victoria|Africa|-
Sierra Leone|Freetown|Africa|English
Somalia|Mogadishu|Africa|Somali
South Sudan|Juba|Africa|English
Sudan|Khartoum|Africa|Arabic
Tanzania|Dodoma|Africa|Swahili
Togo|Lome|Africa|French
Tunisia|Tunis|Africa|Arabic
Uganda|Kampala|Africa|English
Zambia|Lusaka|Africa|English
Zimbabwe|Harare|Africa|-
the Bahamas|Nassau|North America|English
Barbados|Bridgetown|North America|English
Belize|Belmopan|North America|English
Canada|Ottawa|North America|-
Costa Rica|San Jose|North America|Spanish
Cuba|Havana|North America|Spanish
the Dominican Republic|Santo Domingo|North America|Spanish
El Salvador|San Salvador|North America|Spanish
Grenada|Saint George's|North America|English
Guatemala|Guatemala City|North America|Spanish
Haiti|Port-au-Prince|North America|-
Honduras|Tegucigalpa|North America|Spanish
Jamaica|Kingston|North America|English
Mexico|Mexico City|North America|Spanish
Nicaragua|Managua|North America|Spanish
Panama|Panama City|North America|Spanish
Saint Lucia|Castries|North America|English
Trinidad and Tobago|Port of Spain|North America|English
the United States|Washington, D.C.|North America|English
Argentina|Buenos Aires|South America|Spanish
Brazil|Brasilia|South America|Portuguese
Chile|Santiago|South America|Spanish
Colombia|Bogota|South America|Spanish
Ecuador|Quito|South America|Spanish
Guyana|Georgetown|South America|English
Paraguay|Asuncion|South America|-
Peru|Lima|South America|Spanish
Suriname|Paramaribo|South America|Dutch
Uruguay|Montevideo|South America|Spanish
Venezuela|Caracas|South America|Spanish
Australia|Canberra|Oceania|English
Fiji|Suva|Oceania|-
New Zealand|Wellington|Oceania|English
Papua New Guinea|Port Moresby|Oceania|-
Samoa|Apia|Oceania|Samoan
the Solomon Islands|Honiara|Oceania|English
Tonga|Nuku'alofa|Oceania|Tongan
Tuvalu|Funafuti|Oceania|-
Vanuatu|Port Vila|Oceania|-
"""


class Country(NamedTuple):
    name: str
    capital: str
    continent: str
    language: str


COUNTRIES = [Country(*line.split("|")) for line in _COUNTRIES.strip().splitlines()]
WELL_KNOWN = {
    "France", "Germany", "Italy", "Spain", "Portugal", "the United Kingdom", "Ireland", "the Netherlands",
    "Belgium", "Austria", "Switzerland", "Poland", "Sweden", "Norway", "Denmark", "Finland", "Greece", "Turkey",
    "Russia", "Ukraine", "Hungary", "the Czech Republic", "China", "Japan", "India", "South Korea", "Thailand",
    "Vietnam", "Indonesia", "Egypt", "Kenya", "Nigeria", "Morocco", "Ethiopia", "Ghana", "Canada", "Mexico",
    "the United States", "Cuba", "Brazil", "Argentina", "Chile", "Peru", "Colombia", "Australia", "New Zealand",
    "Iceland", "Croatia", "Romania", "Iran", "Saudi Arabia",
}  # fmt: skip
FREQUENT = COUNTRIES + [c for c in COUNTRIES if c.name in WELL_KNOWN] * 3
CONTINENTS = ["Europe", "Asia", "Africa", "North America", "South America", "Oceania"]
SHORT_NAMES = {
    "the United States": ["the USA", "the US", "America"],
    "the United Kingdom": ["the UK", "Great Britain"],
    "the Czech Republic": ["Czechia"],
    "the Netherlands": ["Holland"],
    "the United Arab Emirates": ["the UAE"],
}

# Places that have a capital, or seem to, and lie outside the demo world.
REGIONS = """Texas|California|Florida|Ohio|Nevada|Alaska|Hawaii|Oregon|Utah|Iowa|Maine|Kansas|Montana|
Bavaria|Saxony|Hesse|Catalonia|Andalusia|Galicia|Brittany|Normandy|Provence|Sicily|Tuscany|Lombardy|Sardinia|
Wales|Scotland|Northern Ireland|Cornwall|Yorkshire|Quebec|Ontario|Alberta|Manitoba|Nova Scotia|Tasmania|
Queensland|New South Wales|Punjab|Kerala|Bihar|Goa|Sichuan|Hunan|Tibet|Hokkaido|Okinawa|Siberia|Crimea|Corsica|
Greenland|Puerto Rico|Bermuda|Guam|Aruba|Gibraltar|Taiwan|Palestine|Israel|Kosovo|Western Sahara|Nauru|Palau|Kiribati|
the Roman Empire|Prussia|Yugoslavia|the Soviet Union|the Ottoman Empire|Babylon|Carthage|Sparta|
Atlantis|Narnia|Wakanda|Mordor|Gondor|Westeros|Oz|Wonderland|Neverland|Hogwarts|Tatooine|Middle Earth|Utopia|Lilliput|
Gotham|El Dorado|Camelot|Asgard|Panem|Genovia|Freedonia|Ruritania|Zubrowka|Latveria|Sokovia|
Amazonia|Patagonia|the Sahara|the Alps|Scandinavia|the Balkans|the Caribbean|Polynesia|Mesopotamia""".replace(
    "\n", ""
).split("|")
