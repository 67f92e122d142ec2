"""Figures about a text: how long, how rich, which words it uses most.

The body of the call is the text; nothing else is needed.
"""

import re
from collections import Counter
from itertools import pairwise

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


def main(event: str | bytes) -> dict[str, object]:
    text = event.decode("utf-8", "replace") if isinstance(event, bytes) else event
    words = WORD.findall(text.lower())
    counts = Counter(words)
    pairs = Counter(pairwise(words))
    sentences = max(1, len(SENTENCE_END.findall(text)))
    return {
        "characters": len(text),
        "lines": len(text.splitlines()),
        "sentences": sentences,
        "words": len(words),
        "distinct_words": len(counts),
        "used_once": sum(1 for count in counts.values() if count == 1),
        "mean_word_length": round(sum(map(len, words)) / max(1, len(words)), 2),
        "words_per_sentence": round(len(words) / sentences, 1),
        "longest_word": max(counts, key=lambda word: (len(word), word), default=""),
        "top_words": dict(counts.most_common(10)),
        "top_pairs": {" ".join(pair): count for pair, count in pairs.most_common(5)},
    }
