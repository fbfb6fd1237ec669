"""A fuzzer of the whole library: every public function on odd models, images, labels, sets and settings.

`python -m tests.fuzz --seed 0 --cases 15000` runs it, and `--only N` runs case N alone. Every ingredient says what is expected of it,
so every case has a verdict without a person looking at it. Verdicts:

right      a result, and all that was checked of it holds
clear      a refusal in a sentence of the library's own, where an ingredient is bad or may be refused
own        the model's own error, passed on
unclear    an error in another's words (FAULT)
wrong      a result that does not hold, or something changed that is the caller's (FAULT)
taken      a bad ingredient, and yet a result (FAULT)
refused    a refusal, although every ingredient is good (FAULT)
hang       longer than the alarm (FAULT)
crash      the process died (FAULT)
"""
