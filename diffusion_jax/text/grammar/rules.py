"""The rules of the restaurant grammar, in the notation that ``notation.py`` reads.

A heading names a symbol; each indented line below it is one way to rewrite that symbol::

    weight[*] [classes:] template

``*`` marks a rule that only the ``full`` size has. ``classes`` limits a rule to subjects of some
agreement classes (``it``, ``they``, ``she``, ``he``; ``people`` stands for the last three). A
template is a bracketed tree with Penn labels, whose leaves are

    word/TAG    this word with this Penn tag (``a/DT`` is spelled ``an`` before a vowel sound),
    @form       the form of a word that agrees with the subject: ``@be``, ``@serve``, ``@poss``,
    $attr:form  says the attribute's value in one of the forms of ``lexicon.py``,
    symbol      another symbol. One named ``NP:core`` adds a bracket with label NP; one without a
                label (``lead``) adds none.

A rule can be chosen only where none of the attributes in it has been said before; the weights of
the rules that can be chosen are normalised. The symbols are laid out so that no sentence is longer
than 16 tokens (``small``) or 40 (``full``).
"""

RULES = """
top
  40   (S lead ./.)
  30   (S brief ./.) (S again ./.)
  2    (S brief ./.)
  40*  (S rich ./.)
  60*  (S lead ./.) (S link ./.)
  30*  (S brief ./.) (S again ./.) (S coda ./.)

lead
  22   NP:name VP:describe
  16   NP:name (VP VP:fact and/CC VP:fact)
  9    it: NP:name ,/, NP:core ,/, VP:fact
  9    she,he: NP:name ,/, (NP owner/NN (PP of/IN NP:core)) ,/, VP:fact
  9*   they: NP:name ,/, (NP owners/NNS (PP of/IN NP:core)) ,/, VP:fact
  8    NP:name ,/, SBAR:which ,/, VP:fact
  8    PP:where ,/, NP:name VP:fact
  5    NP:name (VP @serve NP:meal PP:where)
  5    NP:name (VP @serve (NP NP:meal PP:where))
  6    (PP with/IN (NP @poss $price:noun)) ,/, NP:name VP:fact
  5    (SBAR although/IN (S (NP @nom) VP:quick)) ,/, NP:name VP:quick
  6    NP:mass (VP is/VBZ (VP served/VBN PP:host PP:where))
  5    NP:mass (VP is/VBZ (VP served/VBN PP:host))
  5    it: (NP there/EX) (VP is/VBZ (NP NP:place (VP called/VBN NP:name)))
  2    it: (NP there/EX) (VP is/VBZ (NP NP:core (VP called/VBN NP:name)))
  5    it: (S (VP located/VBN PP:where)) ,/, NP:name VP:fact
  5*   NP:plural (VP are/VBP (VP prepared/VBN PP:host PP:where))
  6*   NP:name (VP VP:fact but/CC VP:fact)
  4*   NP:crowd (VP say/VBP (SBAR that/IN (S NP:name VP:fact)))
  5*   it: (NP NP:place (VP named/VBN NP:name)) VP:fact
  4*   NP:score (VP was/VBD (VP given/VBN (PP to/IN NP:name))) ,/, SBAR:which

rich
  6*   NP:name (VP VP:fact ,/, VP:fact and/CC VP:fact)
  6*   NP:name (VP VP:describe and/CC VP:fact)
  5*   it: NP:name ,/, NP:place ,/, VP:fact
  5*   NP:name ,/, SBAR:which ,/, (VP VP:fact and/CC VP:fact)
  5*   (SBAR although/IN (S (NP @nom) VP:fact)) ,/, NP:name VP:fact
  5*   it: NP:name (VP @be NP:place ,/, (S VP:doing))
  5*   people: NP:name (VP @run NP:place ,/, (S VP:doing))
  5*   it: NP:name (VP @be NP:place ,/, (PP with/IN NP:score))
  5*   people: NP:name (VP @own NP:place ,/, (PP with/IN NP:score))
  4*   NP:crowd (VP say/VBP (SBAR that/IN (S NP:name (VP VP:fact and/CC VP:fact))))
  4*   (PP for/IN NP:meal) ,/, (VP VB:visit NP:name PP:where)
  4*   (SBAR if/IN (S (NP you/PRP) (VP VBP:like NP:meal))) ,/, (VP VB:visit NP:name) extra
  4*   (NP you/PRP) (VP can/MD (VP find/VB NP:name PP:where)) ,/, and/CC (S (NP @nom) VP:fact)
  4*   (NP you/PRP) (VP can/MD (VP eat/VB NP:meal PP:host)) ,/, and/CC (S (NP @nom) VP:fact)
  3*   it: (PP at/IN NP:name) ,/, clause extra
  3*   people: (PP at/IN (NP (NP NP:name 's/POS) NN:spot)) ,/, clause extra

clause
  1*   (NP you/PRP) (VP can/MD (VP eat/VB NP:meal))

brief
  1    NP:name VP:fact

again
  12   (NP @nom) VP:fact
  3    (NP @poss prices/NNS) (VP are/VBP (ADJP $price:level))
  3    (NP @poss rating/NN) (VP is/VBZ (ADJP $rating:adj))
  3    (NP @poss food/NN) (VP is/VBZ (ADJP $food:adj))
  3    (NP customers/NNS) (VP rate/VBP (NP @obj) (ADVP $rating:adv))
  2    (NP families/NNS) (VP are/VBP $family_friendly:welcome)
  3*   people: (NP @poss place/NN) (VP is/VBZ PP:where)
  2*   (NP the/DT cooking/NN) (VP is/VBZ (ADJP $food:adj))
  2*   NP:crowd (VP rate/VBP (NP @obj) (ADVP $rating:adv))
  2*   NP:crowd (VP give/VBP (NP @obj) NP:score)
  2*   (NP $food:adj food/NN) (VP is/VBZ (VP served/VBN (PP at/IN $price:noun)))
  2*   (NP you/PRP) (VP will/MD (VP find/VB (NP @obj) PP:where))

link
  5*   coda
  4*   (NP @nom) (VP VP:fact and/CC VP:fact)

coda
  5*   again
  2*   (ADVP moreover/RB) ,/, again
  2*   (PP in/IN (NP addition/NN)) ,/, again
  1*   (ADVP besides/RB) ,/, again
  1*   (ADVP finally/RB) ,/, again
  1*   (ADVP also/RB) ,/, again

extra
  3*   ,/, SBAR:which
  2*   it: ,/, NP:desc
  2*   ,/, and/CC (S (NP @nom) VP:fact)

SBAR:which
  1    (WHNP @rel) (S VP:quick)

VP:describe
  5    it: @be NP:desc
  5    people: @run NP:desc
  2*   people: @own NP:desc
  2*   people: @manage NP:desc

VP:fact
  5    @serve NP:meal
  3    it: @be (ADJP $price:adj)
  3    @have (NP $price:noun)
  4    @have NP:score
  2    it: @be (VP rated/VBN (ADVP $rating:adv))
  2    it: @be (ADJP $family_friendly:adj)
  3    $family_friendly:verb
  4    it: @be PP:where
  4    people: @cook PP:where
  3    it: @be NP:core
  3    people: @run NP:core
  3    @offer NP:meal
  3*   @serve NP:meal PP:where
  3*   @serve (NP NP:meal PP:where)
  2*   @specialise (PP in/IN NP:mass)
  2*   @prepare NP:plural
  2*   @be (VP known/VBN (PP for/IN (NP @poss $price:noun)))
  2*   @be (ADJP famous/JJ (PP for/IN NP:plural))
  2*   @charge (NP $price:noun)
  2*   @serve (NP $food:adj food/NN) (PP at/IN $price:noun)
  2*   @be (VP (ADVP $rating:adv) rated/VBN (PP by/IN NP:crowd))
  2*   @receive (NP $rating:adj NNS:reviews) (PP from/IN NP:crowd)
  2*   it: @lie PP:where
  2*   it: can/MD (VP be/VB (VP found/VBN PP:where))
  2*   people: @work PP:where
  1*   it: @be (ADJP RB:very $price:adj)

VP:quick
  4    @serve NP:mass
  3    @have (NP $price:noun)
  3    @have (NP a/DT $rating:adj rating/NN)
  3    it: @be (ADJP $price:adj)
  2    it: @be (ADJP $family_friendly:adj)
  2    it: @be (VP rated/VBN (ADVP $rating:adv))
  2    $family_friendly:verb
  2*   @prepare NP:plural
  3*   it: @be PP:where
  3*   people: @live PP:where
  2*   @be (VP known/VBN (PP for/IN NP:plural))

VP:doing
  3*   serving/VBG NP:meal
  2*   offering/VBG (NP $price:noun)
  2*   charging/VBG (NP $price:noun)
  2*   $family_friendly:doing

NP:name
  1    $name

NP:desc
  5    NP:core PP:where
  2    NP:core
  3*   NP:core PP:wheres
  2*   NP:core PP:where (SBAR (WHNP that/WDT) (S VP:virtue))
  2*   NP:core (PP with/IN NP:score)
  2*   (NP a/DT $food:adj $kind:noun) (PP with/IN (NP $price:noun))

NP:place
  1    it: NP:core PP:where
  1*   people: NP:core PP:where

VP:virtue
  2*   serves/VBZ NP:meal
  2*   has/VBZ (NP $price:noun)
  2*   has/VBZ (NP a/DT $rating:adj rating/NN)
  1*   is/VBZ (VP rated/VBN (ADVP $rating:adv))

NP:core
  5    a/DT $price:adj $food:adj $kind:noun
  5    a/DT $food:adj $kind:noun
  3    a/DT $price:adj $kind:noun
  2    a/DT (ADJP $family_friendly:adj) $kind:noun
  2    a/DT $price:adj place/NN
  2    a/DT $kind:noun
  2    a/DT JJ:nice $kind:noun
  3    a/DT JJ:nice $food:adj $kind:noun
  3*   a/DT JJ:nice $price:adj $kind:noun
  2*   a/DT (ADJP $family_friendly:adj) $food:adj $kind:noun
  2*   a/DT $price:adj ,/, (ADJP $family_friendly:adj) NN:spot
  2*   a/DT JJ:nice $food:adj NN:spot
  1*   a/DT (ADJP RB:very $price:adj) $food:adj $kind:noun

NP:meal
  4    NP:mass
  3    NP:plural

NP:mass
  4    $food:adj food/NN
  2    $price:adj $food:adj food/NN
  2    $food:adj cuisine/NN
  1*   JJ:tasty $food:adj food/NN
  2*   $food:mass

NP:plural
  3    $food:adj dishes/NNS
  2*   $food:adj NNS:courses
  1*   $price:adj $food:adj NNS:courses
  2*   JJ:tasty $food:adj NNS:courses
  3*   $food:plural

NP:score
  5    a/DT $rating:adj rating/NN
  2*   a/DT $rating:adj customer/NN rating/NN
  2*   a/DT $rating:adj reputation/NN
  2*   (NP a/DT rating/NN) (PP of/IN $rating:stars)
  2*   $rating:adj NNS:reviews

PP:host
  1    it: at/IN NP:name
  1    people: by/IN NP:name

PP:where
  4    near/IN $near:noun
  3    $area:place
  2*   close/RB (PP to/IN $near:noun)
  2*   next/RB (PP to/IN $near:noun)
  1*   beside/IN $near:noun
  1*   opposite/IN $near:noun

PP:wheres
  4*   PP:where
  2*   (PP near/IN $near:noun) (PP $area:place)
  2*   (PP $area:place) ,/, (PP near/IN $near:noun)

NP:crowd
  3*   customers/NNS
  1*   visitors/NNS
  1*   locals/NNS
  1*   diners/NNS
  1*   most/JJS guests/NNS
  1*   many/JJ critics/NNS
  1*   travellers/NNS

VB:visit
  3*   visit/VB
  2*   try/VB
  1*   choose/VB
  1*   consider/VB

VBP:like
  3*   like/VBP
  2*   enjoy/VBP
  2*   want/VBP
  1*   love/VBP

NN:spot
  3*   place/NN
  1*   spot/NN
  1*   venue/NN
  1*   address/NN

JJ:nice
  2*   nice/JJ
  2    small/JJ
  1*   charming/JJ
  1*   cosy/JJ
  1*   lively/JJ
  2    quiet/JJ
  1*   modern/JJ
  1*   traditional/JJ
  1*   elegant/JJ
  1*   informal/JJ
  1*   unusual/JJ
  1*   spacious/JJ
  2    busy/JJ

JJ:tasty
  2*   tasty/JJ
  1*   delicious/JJ
  1*   fresh/JJ
  1*   authentic/JJ
  1*   simple/JJ
  1*   spicy/JJ
  1*   hearty/JJ

RB:very
  2*   very/RB
  1*   quite/RB
  1*   rather/RB
  1*   really/RB

NNS:courses
  2*   dishes/NNS
  1*   meals/NNS
  1*   specialities/NNS
  1*   lunches/NNS
  1*   dinners/NNS
  1*   snacks/NNS

NNS:reviews
  2*   reviews/NNS
  1*   ratings/NNS
  1*   reports/NNS
"""
