"""Rankings in and out, in the formats of other tools: a module a format, what it cannot hold counted and said.

rankings       our own rows                       .jsonl .json .csv .parquet
trl            chosen and rejected                .jsonl .json .csv .parquet
datasets       our own rows                       a folder as `save_to_disk` writes it
hh-rlhf        Anthropic's transcripts            .jsonl .json
argilla        records of a RankingQuestion       .json
label-studio   Pairwise and Ranker annotations    .json
oasst          OpenAssistant's message trees      .jsonl .json

.jsonl is an object a line, .json one array of them; .gz may follow any ending but .parquet.
"""

from rlhf.preferences.exchange.base import Tally, listed
from rlhf.preferences.exchange.reading import AUTO, FORMATS, RankingFile, RanksMissing
from rlhf.preferences.exchange.trl import pair_rows
from rlhf.preferences.exchange.writing import (
    WRITABLE,
    Written,
    check_ending,
    endings,
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
    "RanksMissing",
    "Tally",
    "Written",
    "check_ending",
    "endings",
    "listed",
    "pair_rows",
    "write",
    "write_demonstrations",
    "write_pairs",
    "write_rankings",
]
