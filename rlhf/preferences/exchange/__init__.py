"""Rankings in and out, in the formats of other tools: a module a format, what it cannot hold counted and said.

rankings       our own rows                       .jsonl .json .parquet .csv, .gz of text
trl            chosen and rejected                .jsonl .json .parquet .csv
datasets       our own rows                       a folder as `save_to_disk` writes it
hh-rlhf        Anthropic's transcripts            .jsonl
argilla        records of a RankingQuestion       .json, one array
label-studio   Pairwise and Ranker annotations    .json, one array
oasst          OpenAssistant's message trees      .jsonl
"""

from rlhf.preferences.exchange.base import Tally, listed
from rlhf.preferences.exchange.reading import AUTO, FORMATS, RankingFile
from rlhf.preferences.exchange.trl import pair_rows
from rlhf.preferences.exchange.writing import (
    WRITABLE,
    Written,
    write,
    write_demonstrations,
    write_pairs,
    write_rankings,
)

__all__ = [
    "AUTO",
    "FORMATS",
    "WRITABLE",
    "RankingFile",
    "Tally",
    "Written",
    "listed",
    "pair_rows",
    "write",
    "write_demonstrations",
    "write_pairs",
    "write_rankings",
]
