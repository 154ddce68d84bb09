"""T-Eval (Chen et al., 2023): its question files, and its scores number by number, re-implemented without its code.

questions.py    files and names, questions as turns, files of predictions
reading.py      raw replies, cut and read
matching.py     a plan's steps against the right ones
dimensions.py   what one reply is worth
scores.py       a file's metrics, the six dimensions and their mean
"""

from flanlite.scoring.teval.matching import Embed
from flanlite.scoring.teval.questions import Form, form_of, read_questions, turns_of, write_predictions
from flanlite.scoring.teval.reading import cut_reply
from flanlite.scoring.teval.scores import DIMENSIONS, Scored, Summary, score, summarise

__all__ = [
    "DIMENSIONS",
    "Embed",
    "Form",
    "Scored",
    "Summary",
    "cut_reply",
    "form_of",
    "read_questions",
    "score",
    "summarise",
    "turns_of",
    "write_predictions",
]
