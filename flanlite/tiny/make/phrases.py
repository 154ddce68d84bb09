"""How people ask for what the built-in tools do.

`[a|b]` is one of several wordings, `{name}` a value. Three lists a tool: `known` phrasings are in the sample corpus
(and in pre-training), `wider` ones only in pre-training, `unseen` ones in neither, so that a score on them says how
far the model carries to wordings it never read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """The wordings of one built-in tool, the topic that a thought names, and the answer's sentence."""

    topic: str
    known: tuple[str, ...]
    wider: tuple[str, ...]
    unseen: tuple[str, ...]


PHRASES: dict[str, Phrases] = {
    "calculate": Phrases(
        topic="arithmetic",
        known=(
            "What is {expression}?",
            "[Calculate|Compute|Work out] {expression}.",
            "How much is {expression}?",
            "[Can|Could] you calculate {expression}?",
            "I need the result of {expression}.",
            "What does {expression} [come to|make]?",
            "{expression} = ?",
        ),
        wider=(
            "[Evaluate|Solve|Do the sum] {expression}.",
            "[Give|Tell] me the [value|result] of {expression}.",
            "What do you get for {expression}?",
            "What is the [result|value|answer] of {expression}?",
            "{expression}",
            "{expression}, how much is that?",
            "[Help me with|I have to work out] {expression}.",
            "Do you know what {expression} is?",
            "My [homework|exercise] says {expression}. What is [it|the result]?",
            "Find {expression}.",
            "The total of {expression}, please.",
            "What is the sum {expression}?",
        ),
        unseen=(
            "Figure out {expression} for me.",
            "What would {expression} be?",
            "I am stuck on {expression}, what comes out?",
        ),
    ),
    "convert_units": Phrases(
        topic="unit conversion",
        known=(
            "[Convert|Change] {value} {from_unit} [to|into] {to_unit}.",
            "How many {to_unit} are [in |]{value} {from_unit}?",
            "What is {value} {from_unit} in {to_unit}?",
            "[Can|Could] you convert {value} {from_unit} to {to_unit}?",
            "{value} {from_unit} [to|in] {to_unit}?",
            "I have {value} {from_unit}. How many {to_unit} is that?",
            "How much is {value} {from_unit} in {to_unit}?",
        ),
        wider=(
            "[Turn|Translate] {value} {from_unit} into {to_unit}.",
            "Express {value} {from_unit} in {to_unit}.",
            "[Give|Tell] me {value} {from_unit} in {to_unit}.",
            "How many {to_unit} [do|would] {value} {from_unit} make?",
            "I need {value} {from_unit} in {to_unit}.",
            "{value} {from_unit} is how many {to_unit}?",
            "What do {value} {from_unit} come to in {to_unit}?",
            "The [recipe|manual|sign|label] says {value} {from_unit}. What is that in {to_unit}?",
            "How do I write {value} {from_unit} in {to_unit}?",
            "In {to_unit}, what is {value} {from_unit}?",
            "Do you know how many {to_unit} {value} {from_unit} are?",
            "Do the conversion of {value} {from_unit} to {to_unit}.",
        ),
        unseen=(
            "{value} {from_unit} equals how many {to_unit}?",
            "I would like to have {value} {from_unit} as {to_unit}.",
            "My friend said {value} {from_unit}, but I only know {to_unit}. How much is it?",
        ),
    ),
    "days_between": Phrases(
        topic="the days between two dates",
        known=(
            "How many days are [there |]between {start} and {end}?",
            "How many days [is it|are there] from {start} to {end}?",
            "[Count|Find] the days between {start} and {end}.",
            "[Count|Tell me] the days from {start} to {end}.",
            "What is the number of days between {start} and {end}?",
            "How long is it from {start} to {end} in days?",
        ),
        wider=(
            "How many days [lie|pass] between {start} and {end}?",
            "How many days [lie|pass] from {start} until {end}?",
            "What is the difference in days between {start} and {end}?",
            "Give me the number of days from {start} [to|until] {end}.",
            "It is {start}. How many days are left until {end}?",
            "My [holiday|course|trip] is from {start} to {end}. How many days is that?",
            "The days between {start} and {end}, please.",
            "I need the [gap|distance] in days from {start} to {end}.",
            "[Between|From] {start} and {end}, how many days are there?",
            "Work out the days from {start} to {end}.",
        ),
        unseen=(
            "If I start on {start} and finish on {end}, how many days will that be?",
            "How many days separate {start} and {end}?",
            "{start} till {end}: how many days?",
        ),
    ),
    "add_days": Phrases(
        topic="adding days to a date",
        known=(
            "What date is {days} days after {date}?",
            "What date is {days_before} days before {date}?",
            "[Add|Please add] {days} days to {date}.",
            "Which [date|day] [comes|is] {days} days after {date}?",
            "Which [date|day] [comes|is] {days_before} days before {date}?",
            "What is the date {days} days from {date}?",
            "Take {days_before} days from {date}.",
        ),
        wider=(
            "Find the date {days} days after {date}.",
            "Find the date {days_before} days before {date}.",
            "[Give|Tell] me the date {days} days after {date}.",
            "[Give|Tell] me the date {days_before} days before {date}.",
            "It is {date}. What date will it be in {days} days?",
            "It is {date}. What date was it {days_before} days ago?",
            "Start at {date} and go {days} days on. What date is it?",
            "{days} days after {date} is which date?",
            "{days_before} days before {date} was which date?",
            "[My order of|The letter of] {date} takes {days} days. When is it here?",
            "If today is {date}, when is it {days} days later?",
            "{date} plus {days} days?",
            "{date} minus {days_before} days?",
        ),
        unseen=(
            "Count {days} days on from {date}. Where do I land?",
            "My pass is valid for {days} days from {date}. On which date does it end?",
            "What was the date {days_before} days earlier than {date}?",
        ),
    ),
    "weekday": Phrases(
        topic="the weekday of a date",
        known=(
            "What [weekday|day of the week] is {date}?",
            "What [weekday|day of the week] was {date}?",
            "Which [weekday|day of the week] [is|was] {date}?",
            "On which [weekday|day] does {date} fall?",
            "Tell me the weekday of {date}.",
            "What day is {date}?",
        ),
        wider=(
            "[Find|Name|Give me] the weekday of {date}.",
            "Is {date} a [Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday]?",
            "What day of the week will {date} be?",
            "Do you know what day {date} [is|was]?",
            "My birthday is on {date}. What weekday is it?",
            "I was born on {date}. What day of the week was that?",
            "The weekday of {date}, please.",
            "{date} is [what|which] [weekday|day of the week]?",
            "I need to know the day of the week for {date}.",
            "On {date}, what weekday is it?",
        ),
        unseen=(
            "Which day of the week do we have on {date}?",
            "The party is on {date}; what weekday would that be?",
            "Could you say what day of the week {date} falls on?",
        ),
    ),
    "country_info": Phrases(
        topic="facts about a country",
        known=(
            "What is the {field} of {country}?",
            "[Tell|Give] me the {field} of {country}.",
            "[Look up|Find] the {field} of {country}.",
            "I would like to know the {field} of {country}.",
            "What {field} does {country} have?",
            "I need the {field} of {country}.",
        ),
        wider=(
            "[Which|What] {field} has {country}?",
            "What is {country}'s {field}?",
            "{country}: what is its {field}?",
            "Do you know the {field} of {country}?",
            "The {field} of {country}, please.",
            "I am reading about {country}. What is its {field}?",
            "For {country}, what is the {field}?",
            "I forgot the {field} of {country}.",
            "[Say|Name] the {field} of {country}.",
            "We [go|travel] to {country}. What is the {field} there?",
        ),
        unseen=(
            "My quiz asks for the {field} of {country}.",
            "Help me out with the {field} of {country}.",
            "Would you happen to know {country}'s {field}?",
        ),
    ),
    "element_info": Phrases(
        topic="a chemical element",
        known=(
            "What is the {field} of {element}?",
            "[Tell|Give] me the {field} of {element}.",
            "[Look up|Find] the {field} of {element}.",
            "What {field} does {element} have?",
            "I would like to know the {field} of {element}.",
            "I need the {field} of {element}.",
        ),
        wider=(
            "What is {element}'s {field}?",
            "The element {element}: what is its {field}?",
            "Do you know the {field} of {element}?",
            "The {field} of the element {element}, please.",
            "In chemistry, what is the {field} of {element}?",
            "I forgot the {field} of {element}.",
            "For {element}, what is the {field}?",
            "[Say|Name] the {field} of {element}.",
            "We talk about {element} at school. What is its {field}?",
        ),
        unseen=(
            "My quiz asks for the {field} of {element}.",
            "Help me out with the {field} of {element}.",
            "Would you happen to know {element}'s {field}?",
        ),
    ),
    "to_roman": Phrases(
        topic="Roman numerals",
        known=(
            "[Write|Show] {number} as a Roman numeral.",
            "What is {number} in Roman numerals?",
            "[Write|Convert] {number} in Roman numerals.",
            "How do you write {number} in Roman numerals?",
            "Give me the Roman numeral for {number}.",
            "What is the Roman numeral for {number}?",
        ),
        wider=(
            "[Turn|Change] {number} into a Roman numeral.",
            "How did the Romans write {number}?",
            "How [does|would] {number} look in Roman numerals?",
            "I need {number} in Roman numerals.",
            "{number} in Roman numerals?",
            "The Roman numeral of {number}, please.",
            "How is {number} written [as a Roman numeral|in Roman numerals]?",
            "Can you put {number} into Roman numerals?",
            "The year {number} in Roman letters?",
        ),
        unseen=(
            "What would an old Roman write for {number}?",
            "I want to carve {number} in Roman numerals, what do I carve?",
            "Spell {number} the Roman way.",
        ),
    ),
    "count_letter": Phrases(
        topic="counting a letter",
        known=(
            "How [often|many times] is the letter {letter} in {word}?",
            "How many {letter}'s are in {word}?",
            "Count the letter {letter} in {word}.",
            "How many times does {letter} [appear|occur] in {word}?",
            "How many letters {letter} does {word} have?",
            "How often does the letter {letter} [appear|occur] in the word {word}?",
        ),
        wider=(
            "Count how often {letter} is in {word}.",
            "In {word}, how many times do you see the letter {letter}?",
            "In the word {word}, how many letters {letter} are there?",
            "Tell me how many {letter}'s {word} has.",
            "How many {letter} are there in {word}?",
            "[Find|Give me] the number of letters {letter} in {word}.",
            "What is the number of {letter}'s in {word}?",
            "Does {word} have many {letter}'s? Count them.",
            "Please count the {letter}'s in the word {word}.",
            "The word is {word}. How many {letter}'s does it have?",
        ),
        unseen=(
            "Look at {word}: how many times is {letter} in there?",
            "If I spell {word}, how often do I say {letter}?",
            "What count of {letter} do you find in {word}?",
        ),
    ),
    "reverse_text": Phrases(
        topic="reversing a text",
        known=(
            "[Write|Spell|Say] {text} backwards.",
            "Reverse [the word |the text |]{text}.",
            "What is {text} backwards?",
            "How do you [write|spell] {text} backwards?",
            "What is {text} in reverse?",
            "Can you reverse {text}?",
        ),
        wider=(
            "[Turn|Flip] {text} around.",
            "Give me {text} [backwards|in reverse].",
            "{text} backwards, please.",
            "Read {text} from the end to the start.",
            "How does {text} look backwards?",
            "Put the letters of {text} in reverse order.",
            "I want {text} written backwards.",
            "What do you get if you reverse {text}?",
            "Show me {text} from back to front.",
        ),
        unseen=(
            "What does {text} read like from right to left?",
            "Mirror the word {text} for me.",
            "If you start at the end, how is {text} spelled?",
        ),
    ),
    "prime_factors": Phrases(
        topic="prime factors",
        known=(
            "What are the prime factors of {number}?",
            "[Find|Give me|List] the prime factors of {number}.",
            "[Split|Factor] {number} into prime factors.",
            "Which prime factors does {number} have?",
            "Factor {number}.",
            "What is the prime factorization of {number}?",
        ),
        wider=(
            "Write {number} as a product of primes.",
            "Which primes [divide|make up] {number}?",
            "[Break|Divide] {number} into primes.",
            "I need the prime factors of {number}.",
            "Is {number} a prime number?",
            "The prime factors of {number}, please.",
            "Tell me the primes in {number}.",
            "Into which primes can I split {number}?",
            "Do the prime factorization of {number}.",
            "Factorize {number}.",
        ),
        unseen=(
            "Which prime numbers multiply to {number}?",
            "Take {number} apart into its primes.",
            "{number} is the product of which primes?",
        ),
    ),
    "common_divisor": Phrases(
        topic="the greatest common divisor",
        known=(
            "What is the greatest common divisor of {a} and {b}?",
            "[Find|Give me] the greatest common divisor of {a} and {b}.",
            "What is the gcd of {a} and {b}?",
            "Find the gcd of {a} and {b}.",
            "Which is the largest common divisor of {a} and {b}?",
            "What is the largest number that divides {a} and {b}?",
        ),
        wider=(
            "The greatest common factor of {a} and {b}, please.",
            "What is the [highest|greatest] common factor of {a} and {b}?",
            "Which largest number divides both {a} and {b}?",
            "I need the gcd of {a} and {b}.",
            "Compute the gcd of {a} and {b}.",
            "Tell me the [biggest|greatest] divisor of both {a} and {b}.",
            "gcd of {a} and {b}?",
            "What do {a} and {b} have as greatest common divisor?",
            "{a} and {b}: what is their greatest common divisor?",
        ),
        unseen=(
            "By what largest number can I divide both {a} and {b}?",
            "Tell me the hcf of {a} and {b}.",
            "{a} and {b} share which greatest divisor?",
        ),
    ),
}

# Other words for a field of the look-up tables: whole requests, because "who is money called" fits no frame.
FIELD_REQUESTS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("country_info", "capital"): (
        ("What is the capital city of {country}?", "Which city is the capital of {country}?"),
        ("Name the capital city of {country}.", "Where does the government of {country} sit?"),
    ),
    ("country_info", "continent"): (
        ("On which continent is {country}?", "Which continent is {country} on?"),
        ("Where in the world is {country}?", "{country} is part of which continent?"),
    ),
    ("country_info", "currency"): (
        ("What money do people use in {country}?", "What do people pay with in {country}?"),
        ("Which money is used in {country}?", "How is the money of {country} called?"),
    ),
    ("country_info", "language"): (
        ("What language do people speak in {country}?", "Which language is spoken in {country}?"),
        ("What do they speak in {country}?", "I move to {country}. Which language should I learn?"),
    ),
    ("element_info", "symbol"): (
        ("What is the chemical symbol of {element}?", "Which letters stand for {element}?"),
        ("How do chemists abbreviate {element}?", "What is the symbol for the element {element}?"),
    ),
    ("element_info", "number"): (
        ("What is the atomic number of {element}?", "How many protons does {element} have?"),
        ("At which place in the periodic table is {element}?", "Tell me the atomic number of {element}."),
    ),
    ("element_info", "mass"): (
        ("What is the atomic mass of {element}?", "How heavy is an atom of {element}?"),
        ("What does {element} weigh, in atomic mass?", "Tell me the atomic mass of {element}."),
    ),
}

BEFORE = ("", "", "", "", "", "", "Please: ", "Hi! ", "Hello. ", "Quick question: ", "Hey, ", "One more thing: ",
          "I have a question. ", "Hello, I need help. ")  # fmt: skip
AFTER = ("", "", "", "", "", "", "", " Thanks!", " Thank you.", " Please.", " I need it today.")
BEFORE_UNSEEN = ("Sorry to bother you. ", "Good day! ", "Now then: ")
AFTER_UNSEEN = (" That would help me a lot.", " Cheers!")

ANSWERS: dict[str, str] = {
    "calculate": "{expression} is {result}.",
    "convert_units": "{value} {from_unit} is {result}.",
    "days_between": "From {start} to {end} it is {result}.",
    "add_days": "{days} days from {date} it is {result}.",
    "weekday": "{date} is a {result}.",
    "country_info": "The {field} of {country} is {result}.",
    "element_info": "The {field} of {element} is {result}.",
    "to_roman": "{number} in Roman numerals is {result}.",
    "count_letter": "The letter {letter} is in {word} {result} times.",
    "reverse_text": "{text} backwards is {result}.",
    "prime_factors": "The prime factors of {number} are {result}.",
    "common_divisor": "The greatest common divisor of {a} and {b} is {result}.",
}

# What is asked for as a noun phrase, to be put in any frame: many more wordings for pre-training.
NOUN_PHRASES: dict[str, tuple[str, ...]] = {
    "calculate": ("{expression}", "the [result|value|total] of {expression}", "the answer to {expression}",
                  "what {expression} [is|makes|gives]"),
    "convert_units": ("{value} {from_unit} in {to_unit}", "how many {to_unit} {value} {from_unit} are",
                      "what {value} {from_unit} [is|are] in {to_unit}", "{value} {from_unit} converted to {to_unit}",
                      "the number of {to_unit} in {value} {from_unit}"),
    "days_between": ("the [number of |]days between {start} and {end}", "the days from {start} to {end}",
                     "how many days [there are|lie] between {start} and {end}", "how far apart {start} and {end} are",
                     "the time from {start} to {end} in days"),
    "add_days": ("the date {days} days after {date}", "the date {days_before} days before {date}",
                 "which date is {days} days after {date}", "the day that comes {days_before} days before {date}",
                 "{date} plus {days} days", "{date} minus {days_before} days"),
    "weekday": ("the weekday of {date}", "what weekday {date} is", "the day of the week of {date}",
                "on which weekday {date} falls", "which day of the week {date} was"),
    "country_info": ("the {field} of {country}", "{country}'s {field}", "what the {field} of {country} is",
                     "the {field} that {country} has"),
    "element_info": ("the {field} of {element}", "{element}'s {field}", "what the {field} of {element} is",
                     "the {field} of the element {element}"),
    "to_roman": ("{number} in Roman numerals", "the Roman numeral [of|for] {number}", "how Romans wrote {number}",
                 "{number} as a Roman numeral", "how to write {number} in Roman numerals"),
    "count_letter": ("how often {letter} is in {word}", "the number of {letter}'s in {word}",
                     "how many letters {letter} {word} has", "how many times the letter {letter} is in {word}"),
    "reverse_text": ("{text} backwards", "{text} in reverse", "the reverse of {text}", "{text} spelled backwards",
                     "how {text} looks from the end to the start"),
    "prime_factors": ("the prime factors of {number}", "the primes of {number}", "which primes make {number}",
                      "the factorization of {number}", "{number} as a product of primes"),
    "common_divisor": ("the greatest common divisor of {a} and {b}", "the gcd of {a} and {b}",
                       "the largest number that divides {a} and {b}", "the biggest common factor of {a} and {b}",
                       "what divides both {a} and {b} at most"),
}  # fmt: skip
FRAMES = (
    "I [would like|want|need|have|wish] to know {wanted}.", "[Can|Could|Would|Will] you tell me {wanted}?",
    "Do you [perhaps |]know {wanted}?", "I wonder about {wanted}.", "Please [find|give|show|tell] me {wanted}.",
    "I [need|want] {wanted}.", "[Help me|I need help] [with|to find] {wanted}.", "Could you look for {wanted}?",
    "My [teacher|boss|son|book] asks for {wanted}.", "I [cannot|have to|must|should] work out {wanted}.",
    "Let me know {wanted}.", "[Any idea|What do you know] about {wanted}?", "Find out {wanted}.", "{wanted}?",
    "{wanted}, please.", "I am looking for {wanted}.", "We [talk|speak] about {wanted}.", "Now I need {wanted}.",
    "[Say|Check|Show] {wanted}.", "I forgot {wanted}.", "And {wanted}?", "For [school|work|my list], I need {wanted}.",
    "Is it hard to find {wanted}?", "You surely know {wanted}.", "Next: {wanted}.", "It is about {wanted}.",
    "The question is {wanted}.", "My question: {wanted}?", "I am not sure about {wanted}.", "Explain {wanted}.",
)  # fmt: skip
