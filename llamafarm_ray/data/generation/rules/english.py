"""English word tables behind the question rules. Tables only; grammar and patterns use them."""

from __future__ import annotations

__all__ = [
    "ADVERBS",
    "ATTRIBUTE_NOUNS",
    "COLOURS",
    "COMMON_NOUNS",
    "COMPARATIVES",
    "CONDITION_STARTS_REFUSED",
    "CONDITION_VERDICTS",
    "CONTAINER_TITLES",
    "COUNTLESS_NOUNS",
    "DETERMINERS",
    "DISCOURSE_TERMS",
    "EMPTY_HEADS",
    "FINITE_WORDS",
    "GROUP_NOUNS",
    "HEADING_VERBS",
    "IMPERATIVES",
    "IRREGULAR_PLURALS",
    "IRREGULAR_VERBS",
    "NO_DEFINITION",
    "OPEN_ENDS",
    "POINTING_ADJECTIVES",
    "POSSESSIVES",
    "PREPOSITIONS",
    "QUANTIFIERS",
    "ROLE_NOUNS",
    "SUBJECT_BREAKERS",
    "SUBJECT_STARTS_REFUSED",
    "UNHELPFUL_HEADINGS",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "the a an each every all any most many some several few two three four five six seven eight nine ten"
)
POSSESSIVES = {"our": "your", "your": "my", "my": "your"}
"""Possessives as the asker uses them: "your office" for a document's "our office"."""

ADVERBS = _words(
    "usually normally always also only currently typically generally often now still already automatically "
    "officially originally first finally mainly mostly primarily simply therefore then"
)
PREPOSITIONS = _words(
    "of for in at on with from to near between by under over above below behind beside inside outside into onto per "
    "without within during through against about among around across along after before until since via like"
)
FINITE_WORDS = _words(
    "is are was were am be been being has have had do does did can could may might must shall should will would "
    "cannot can't won't isn't aren't don't doesn't wasn't weren't didn't"
)
SUBJECT_BREAKERS = FINITE_WORDS | _words(
    "which that what who whose whom where when why how if because although though while whereas unless than so but or "
    "it its itself they them their theirs he she him her his hers we us ours you yours i me mine this these those "
    "there here not never once as"
)
"""A subject with one of these is a clause, or points at something outside of the sentence."""

SUBJECT_STARTS_REFUSED = (PREPOSITIONS | ADVERBS) - _words("all") | _words(
    "no never nobody none nothing neither nor one another other others both either such same please today tomorrow "
    "yesterday anyone anybody anything someone somebody something everyone everybody everything whoever however "
    "moreover furthermore thus hence instead otherwise sometimes rarely and yes just even except "
    "depending according due given regarding concerning despite although what whatever let let's maybe perhaps "
    "later next last soon meanwhile finally lastly secondly thirdly again almost nearly up down out off away based"
)
IMPERATIVES = _words(
    "add adjust apply ask attach avoid bring call change check choose clean click close confirm connect contact "
    "disconnect do download drain email empty ensure enter evacuate fill fit follow get give go hold inform insert "
    "install keep leave let lift lock log make mark move note notify open pack pay phone place plug pour press pull "
    "push put read refer release remove repeat replace report reset restart return rinse run save scan see select "
    "send set shut sign speak stay start stop store submit switch take talk tell tighten touch turn type unlock "
    "unplug use visit wait wash wear wipe write"
)
IRREGULAR_PLURALS = _words("people children men women feet teeth mice geese police data criteria media staff cattle")

EMPTY_HEADS = _words(
    "argument arguments attribute attributes command element elements example examples field fields former function "
    "functions latter method methods object objects one ones option options parameter parameters part parts result "
    "results section step thing things user users value values variable variables way"
)
"""Heads that name nothing without a name or an "of ..." beside them: "the second one", "the default value"."""

COUNTLESS_NOUNS = EMPTY_HEADS | _words(
    "action answer argument array block branch bug byte call capability case change character class client code "
    "column commit condition configuration connection constraint content context core data database default "
    "description developer device difference directory disk distribution document domain effect error reason hash "
    "header row point thing detail event expression file filesystem flag format header host identifier image "
    "implementation index input instance interface interpreter issue item job key keyword line link list log loop "
    "message mode module name network node note operation operator other output package page partition password patch "
    "path pattern pointer port problem procedure process program project prompt protocol query question regex release "
    "remainder repository request response rest return risk row rule schema screen script section sequence server "
    "session set setting signature site situation size software sort source specification statement status string "
    "structure subject syntax system table target task template test text thread token tool transaction tree trigger "
    "guard comparison hash header row reason point thing detail objective area repo binary slide tuple type update "
    "upgrade upload version view web word"
)
"""Nouns for things that manuals have many of: "the transaction" is nobody's, away from its page."""

POINTING_ADJECTIVES = _words(
    "first second third fourth last next previous former latter same actual resulting new newly basic main good "
    "useful typical pure original given specified newly corresponding respective remaining certain equivalent desired "
    "particular"
)
"""What these words tell apart stands on the page: "the first verification", "the resulting file"."""

OPEN_ENDS = _words(
    "like do does run use with as by type enter is are be to of for in on at from and or the a an that than into"
)
"""Words that no sentence ends with: what follows is missing."""

HEADING_VERBS = _words("maintain use do make manage create build write upload add be keep package")
CONDITION_VERDICTS = _words("found seen given specified present provided needed used set correct true false met")
CONDITION_STARTS_REFUSED = _words(
    "not given so possible necessary needed in on at by for when with any anything there everything something someone "
    "no set used done found left run put only all"
)
"""Words with which no condition begins that has a subject of its own."""

QUANTIFIERS = _words(
    "many some several various most few such more less different certain numerous multiple additional further similar "
    "much enough plenty optional"
)
COMPARATIVES = _words(
    "longer shorter larger smaller higher lower newer older better worse faster slower bigger earlier greater fewer"
)

COLOURS = _words(
    "black white red green blue yellow orange brown grey gray pink purple silver golden amber cream violet turquoise"
)
COMMON_NOUNS = _words(
    "breakfast lunch dinner entry admission parking access delivery shipping smoking reception check-in checkout "
    "check-out water power heating lighting luggage food coffee tea staff overtime sick annual room late early free "
    "glass paper shampoo cargo firewood laundry rubbish waste gas wood supper alcohol milk bread fuel soap "
    "equipment information training furniture money payment mail post help sleep public customer visitor guest "
    "online paid unpaid new old full half single double standard internet insurance"
)
"""Words that keep no capital letter inside a sentence, where the document itself gives no evidence."""

ROLE_NOUNS = _words(
    "accountant actor administrator adviser analyst architect artist assistant auditor author boss builder "
    "caretaker ceo chair chairman chairperson chairwoman chef chemist chief clerk coach coordinator cto curator "
    "deputy designer developer director doctor driver editor employee engineer explorer farmer founder foreman "
    "gardener guard guide head historian host inspector instructor inventor janitor judge keeper lawyer leader "
    "lecturer lead librarian maintainer manager mayor mechanic member minister musician nurse officer operator "
    "owner painter partner patron physician pilot planner poet president principal producer professor programmer "
    "ranger receptionist representative researcher scientist secretary specialist steward supervisor surgeon "
    "teacher technician trainer treasurer warden writer mate purser lookout locksmith apprentice candidate captain "
    "skipper carpenter cook sawyer shipwright deckhand passenger swimmer observer traveller sailor pupil visitor "
    "guest child parent"
)
GROUP_NOUNS = _words(
    "team department committee board council office staff group company management crew desk service agency "
    "authority association club foundation ministry unit division administration reception union society government "
    "police"
)
ATTRIBUTE_NOUNS = _words(
    "address age amount area author base budget capacity capital category charge closing code colour color contact "
    "cost country currency current date day days deadline deposit depth diameter dimensions discount distance "
    "duration edition email e-mail emblem energy extension fax fee fees frequency fuel height hour hours humidity "
    "interval language languages length level licence license limit load location manager manufacturer mass "
    "material materials model motto name nickname number quorum record operator output owner password period phone "
    "population postcode power pressure price prices purpose range rate rating salary serial size source speed "
    "status supplier surface target telephone temperature term time times torque type value version voltage volume "
    "warranty website weight width year"
)
"""Nouns of things that are *had*: "What is the <height> of <the tower>?" is a question only for these."""

CONTAINER_TITLES = _words(
    "agreement brochure catalogue catalog charter checklist contract document faq glossary guide guidelines "
    "handbook instructions leaflet list manual memo menu minutes notes notice overview page plan policy policies "
    "procedure procedures protocol readme regulations report rules schedule sheet specification summary terms "
    "timetable"
)
"""Titles that end like this are about the text itself: "the Staff Handbook"."""

DISCOURSE_TERMS = _words(
    "as please both be do note notes warning example examples tip tips important caution remark attention remember "
    "hint reminder see source sources danger info notice question answer q a step http https update ps p.s"
)
NO_DEFINITION = _words(
    "bit lot must pleasure same case reason problem result good factor matter part way step idea choice candidate need "
    "resource exception example consequence issue question thing best worst only first second third last next other "
    "powerful appropriate most more very too few little number task topic"
)
"""After "is a" or "is the" these say something about the subject, and not what it is."""

UNHELPFUL_HEADINGS = _words(
    "introduction overview summary about background general preface abstract welcome contents glance description "
    "options parameters notes note examples example synopsis name compatibility tools files arguments details usage "
    "author authors more misc miscellaneous conclusion discussion hints tips caveats bugs output inputs outputs "
    "remarks rationale syntax commands functions methods variables attributes configuration"
)

IRREGULAR_VERBS: dict[str, tuple[str, str]] = {
    "begin": ("began", "begun"),
    "bring": ("brought", "brought"),
    "build": ("built", "built"),
    "buy": ("bought", "bought"),
    "come": ("came", "come"),
    "cost": ("cost", "cost"),
    "do": ("did", "done"),
    "drive": ("drove", "driven"),
    "feed": ("fed", "fed"),
    "find": ("found", "found"),
    "give": ("gave", "given"),
    "go": ("went", "gone"),
    "grow": ("grew", "grown"),
    "hang": ("hung", "hung"),
    "have": ("had", "had"),
    "hide": ("hid", "hidden"),
    "hold": ("held", "held"),
    "keep": ("kept", "kept"),
    "lead": ("led", "led"),
    "leave": ("left", "left"),
    "lie": ("lay", "lain"),
    "light": ("lit", "lit"),
    "make": ("made", "made"),
    "mean": ("meant", "meant"),
    "meet": ("met", "met"),
    "pay": ("paid", "paid"),
    "put": ("put", "put"),
    "read": ("read", "read"),
    "ring": ("rang", "rung"),
    "run": ("ran", "run"),
    "sell": ("sold", "sold"),
    "send": ("sent", "sent"),
    "set": ("set", "set"),
    "sew": ("sewed", "sewn"),
    "shut": ("shut", "shut"),
    "sit": ("sat", "sat"),
    "speak": ("spoke", "spoken"),
    "stand": ("stood", "stood"),
    "take": ("took", "taken"),
    "teach": ("taught", "taught"),
    "wear": ("wore", "worn"),
    "wind": ("wound", "wound"),
    "write": ("wrote", "written"),
}
"""Past and participle by base form."""
