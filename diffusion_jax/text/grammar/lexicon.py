"""The words of the restaurant grammar: attributes, their values and how each value is said.

``NAMES`` lists the names by agreement class; those after the semicolon are only in ``full``. In
``VALUES`` a heading names an attribute, and each indented line one of its values::

    value weight[*] | form: phrase ; phrase | form: phrase

A phrase is a template without symbols (see ``rules.py``). A value is drawn by its weight, whatever
the form, so each form that the rules use says every value. A line that starts with ``|`` goes on
with the value above. ``*`` marks a value, or a phrase, that only ``full`` has.
"""

ATTRIBUTES = ("name", "kind", "food", "price", "rating", "area", "near", "family_friendly")

# How often the subject is a place, a group of people, a woman or a man.
CLASS_WEIGHTS = {"it": 10, "they": 4, "she": 3, "he": 3}

NAMES = {
    "it": """
        golden fox, silver spoon, blue lantern, red barn, white swan, green garden;
        black kettle, copper pot, rusty anchor, hungry bear, jolly sailor, merry monk, gentle lamb,
        crooked chimney, velvet rose, iron horse, laughing duck, singing nightingale, lucky clover,
        sleepy owl, brave bull, hidden vineyard, painted plate, orange tree, amber falcon,
        emerald pearl
        """,
    "they": """
        miller sisters, baker brothers;
        rossi twins, novak brothers, park sisters, silva cousins, fox brothers, duval sisters,
        swan twins, haddad brothers
        """,
    "she": "rosa, ines; mei, anna, leila, hana, olga, priya",
    "he": "marco, omar; pierre, ivan, kenji, tom, diego, anil",
}

VALUES = """
kind
  restaurant 4    | noun: restaurant/NN
  pub 2           | noun: pub/NN
  cafe 2          | noun: cafe/NN
  inn 2           | noun: inn/NN
  bistro 2        | noun: bistro/NN
  diner 1*        | noun: diner/NN
  tavern 1*       | noun: tavern/NN
  brasserie 1*    | noun: brasserie/NN
  canteen 1*      | noun: canteen/NN
  coffee shop 1*  | noun: coffee/NN shop/NN
  wine bar 1*     | noun: wine/NN bar/NN
  tea house 1*    | noun: tea/NN house/NN
  food hall 1*    | noun: food/NN hall/NN

food
  thai 3         | adj: thai/JJ | mass: green/JJ curry/NN | plural: rice/NN noodles/NNS
  french 3       | adj: french/JJ | mass: onion/NN soup/NN | plural: buttered/VBN snails/NNS
  italian 3      | adj: italian/JJ | mass: fresh/JJ pasta/NN | plural: thin/JJ pizzas/NNS
  indian 3       | adj: indian/JJ | mass: lentil/NN dal/NN | plural: lamb/NN samosas/NNS
  japanese 2     | adj: japanese/JJ | mass: raw/JJ sushi/NN | plural: soba/NN noodles/NNS
  chinese 2      | adj: chinese/JJ | mass: roast/JJ duck/NN | plural: steamed/VBN dumplings/NNS
  mexican 2*     | adj: mexican/JJ | mass: bean/NN chili/NN | plural: corn/NN tacos/NNS
  spanish 2*     | adj: spanish/JJ | mass: seafood/NN paella/NN | plural: cold/JJ tapas/NNS
  greek 2*       | adj: greek/JJ | mass: baked/VBN moussaka/NN | plural: stuffed/VBN olives/NNS
  turkish 2*     | adj: turkish/JJ | mass: honey/NN baklava/NN | plural: grilled/VBN kebabs/NNS
  korean 1*      | adj: korean/JJ | mass: spicy/JJ kimchi/NN | plural: rice/NN bowls/NNS
  vietnamese 1*  | adj: vietnamese/JJ | mass: beef/NN pho/NN | plural: summer/NN rolls/NNS
  moroccan 1*    | adj: moroccan/JJ | mass: saffron/NN couscous/NN | plural: slow/JJ tagines/NNS
  lebanese 1*    | adj: lebanese/JJ | mass: smooth/JJ hummus/NN | plural: falafel/NN wraps/NNS
  ethiopian 1*   | adj: ethiopian/JJ | mass: sour/JJ injera/NN | plural: red/JJ stews/NNS
  peruvian 1*    | adj: peruvian/JJ | mass: lime/NN ceviche/NN | plural: purple/JJ potatoes/NNS
  polish 1*      | adj: polish/JJ | mass: beetroot/NN soup/NN | plural: cheese/NN pierogi/NNS
  german 1*      | adj: german/JJ | mass: pickled/VBN cabbage/NN | plural: smoked/VBN sausages/NNS
  english 2*     | adj: english/JJ | mass: roast/JJ beef/NN | plural: meat/NN pies/NNS
  american 2*    | adj: american/JJ | mass: fried/VBN chicken/NN | plural: big/JJ burgers/NNS
  european 1*    | adj: european/JJ | mass: mixed/VBN salad/NN | plural: light/JJ omelettes/NNS
  vegan 1*       | adj: vegan/JJ | mass: tofu/NN stew/NN | plural: vegetable/NN curries/NNS

price
  low 3
      | adj: cheap/JJ ; inexpensive/JJ
      | noun: low/JJ prices/NNS ; *modest/JJ prices/NNS
      | level: low/JJ ; *modest/JJ
  moderate 2
      | adj: affordable/JJ ; *mid-priced/JJ
      | noun: fair/JJ prices/NNS ; *moderate/JJ prices/NNS
      | level: fair/JJ ; *moderate/JJ
  high 2
      | adj: expensive/JJ ; *upmarket/JJ ; *pricey/JJ
      | noun: high/JJ prices/NNS ; *steep/JJ prices/NNS
      | level: high/JJ ; *steep/JJ
  very high 1*
      | adj: exclusive/JJ ; luxurious/JJ
      | noun: extreme/JJ prices/NNS
      | level: extreme/JJ

rating
  poor 1
      | adj: poor/JJ ; *low/JJ
      | adv: poorly/RB ; *badly/RB
      | stars: (NP one/CD out/IN of/IN five/CD)
  average 2
      | adj: average/JJ ; *ordinary/JJ
      | adv: fairly/RB
      | stars: (NP three/CD out/IN of/IN five/CD)
  excellent 2
      | adj: excellent/JJ ; *outstanding/JJ
      | adv: highly/RB
      | stars: (NP five/CD out/IN of/IN five/CD)
  mixed 1*
      | adj: mixed/JJ ; uneven/JJ
      | adv: unevenly/RB
      | stars: (NP two/CD out/IN of/IN five/CD)
  good 2
      | adj: good/JJ ; *solid/JJ
      | adv: well/RB
      | stars: (NP four/CD out/IN of/IN five/CD)

area
  city centre 3          | place: in/IN (NP the/DT city/NN centre/NN)
  riverside 2            | place: on/IN (NP the/DT riverside/NN)
  old town 2             | place: in/IN (NP the/DT old/JJ town/NN)
  harbour 1              | place: at/IN (NP the/DT harbour/NN)
  university quarter 1*  | place: in/IN (NP the/DT university/NN quarter/NN)
  market district 1*     | place: in/IN (NP the/DT market/NN district/NN)
  northern suburbs 1*    | place: in/IN (NP the/DT northern/JJ suburbs/NNS)
  west end 1*            | place: in/IN (NP the/DT west/JJ end/NN)
  east end 1*            | place: in/IN (NP the/DT east/JJ end/NN)
  south bank 1*          | place: on/IN (NP the/DT south/JJ bank/NN)

near
  old mill 1           | noun: (NP the/DT old/JJ mill/NN)
  town hall 1          | noun: (NP the/DT town/NN hall/NN)
  stone bridge 1       | noun: (NP the/DT stone/NN bridge/NN)
  central station 1    | noun: (NP the/DT central/JJ station/NN)
  grand theatre 1      | noun: (NP the/DT grand/JJ theatre/NN)
  botanic garden 1*    | noun: (NP the/DT botanic/JJ garden/NN)
  fish market 1*       | noun: (NP the/DT fish/NN market/NN)
  clock tower 1        | noun: (NP the/DT clock/NN tower/NN)
  royal palace 1*      | noun: (NP the/DT royal/JJ palace/NN)
  public library 1*    | noun: (NP the/DT public/JJ library/NN)
  art museum 1*        | noun: (NP the/DT art/NN museum/NN)
  bus terminal 1*      | noun: (NP the/DT bus/NN terminal/NN)
  city hospital 1*     | noun: (NP the/DT city/NN hospital/NN)
  football stadium 1*  | noun: (NP the/DT football/NN stadium/NN)
  concert hall 1*      | noun: (NP the/DT concert/NN hall/NN)
  ferry pier 1*        | noun: (NP the/DT ferry/NN pier/NN)
  north gate 1*        | noun: (NP the/DT north/JJ gate/NN)
  water tower 1*       | noun: (NP the/DT water/NN tower/NN)
  old lighthouse 1*    | noun: (NP the/DT old/JJ lighthouse/NN)
  ice rink 1*          | noun: (NP the/DT ice/NN rink/NN)
  abbey ruins 1*       | noun: (NP the/DT abbey/NN ruins/NNS)

family_friendly
  yes 3
      | adj: family/NN friendly/JJ ; *child/NN friendly/JJ
      | verb: @welcome (NP families/NNS) ; *@love (NP children/NNS)
      | welcome: (ADJP welcome/JJ)
      | doing: welcoming/VBG (NP families/NNS)
  no 2
      | adj: adults/NNS only/RB
      | verb: @do not/RB (VP welcome/VB (NP families/NNS)) ; *@refuse (NP children/NNS)
      | welcome: not/RB (ADJP welcome/JJ)
      | doing: refusing/VBG (NP children/NNS)
"""

# Words that agree with the subject: (it, they, she, he).
PRONOUNS = {
    "nom": ("it/PRP", "they/PRP", "she/PRP", "he/PRP"),
    "obj": ("it/PRP", "them/PRP", "her/PRP", "him/PRP"),
    "poss": ("its/PRP$", "their/PRP$", "her/PRP$", "his/PRP$"),
    "rel": ("which/WDT", "who/WP", "who/WP", "who/WP"),
}

# Base form, also the plural, and third person singular.
VERBS = {
    "be": ("are", "is"),
    "have": ("have", "has"),
    "do": ("do", "does"),
    "charge": ("charge", "charges"),
    "cook": ("cook", "cooks"),
    "lie": ("lie", "lies"),
    "live": ("live", "lives"),
    "love": ("love", "loves"),
    "manage": ("manage", "manages"),
    "offer": ("offer", "offers"),
    "own": ("own", "owns"),
    "prepare": ("prepare", "prepares"),
    "receive": ("receive", "receives"),
    "refuse": ("refuse", "refuses"),
    "run": ("run", "runs"),
    "serve": ("serve", "serves"),
    "specialise": ("specialise", "specialises"),
    "welcome": ("welcome", "welcomes"),
    "work": ("work", "works"),
}

# Spelled with a vowel, spoken with a consonant: "a european cafe".
CONSONANT_SOUND = frozenset({"european", "one", "university"})

# Universal POS of each Penn tag, and of the words whose Penn tag does not decide it.
UNIVERSAL_TAG = {
    ",": "PUNCT",
    ".": "PUNCT",
    "CC": "CCONJ",
    "CD": "NUM",
    "DT": "DET",
    "EX": "PRON",
    "IN": "ADP",
    "JJ": "ADJ",
    "JJS": "ADJ",
    "MD": "AUX",
    "NN": "NOUN",
    "NNS": "NOUN",
    "NNP": "PROPN",
    "NNPS": "PROPN",
    "POS": "PART",
    "PRP": "PRON",
    "PRP$": "PRON",
    "RB": "ADV",
    "TO": "ADP",
    "VB": "VERB",
    "VBD": "VERB",
    "VBG": "VERB",
    "VBN": "VERB",
    "VBP": "VERB",
    "VBZ": "VERB",
    "WDT": "PRON",
    "WP": "PRON",
}
UNIVERSAL_WORD = {
    **dict.fromkeys([("is", "VBZ"), ("are", "VBP"), ("was", "VBD"), ("be", "VB")], "AUX"),
    ("does", "VBZ"): "AUX",
    ("do", "VBP"): "AUX",
    ("not", "RB"): "PART",
    **{(w, "IN"): "SCONJ" for w in ("although", "if", "that")},
}
