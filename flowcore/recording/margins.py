"""By how much a thing must differ to be called better, or agree to be called the same: the three margins of the house.

They are here before the recordings that use them, and no claim has one of its own.

    better         a / b below 0.9: more than 10 % less
    much better    a / b below 0.5: more than 50 % less
    same           a / b between 0.9 and 1 / 0.9: within 10 %, shown by two one-sided tests at 2.5 % each

The statistic of a claim is a positive number per seed of which less is better (an error, a cost, a time); for one of
which more is better a and b change places.
"""

MARGINS = {"better": (0.0, 0.9), "much better": (0.0, 0.5), "same": (0.9, 1 / 0.9)}  # where a / b has to lie
CONFIDENCE = 0.95
SUPPORTED, CONTRADICTED, UNRESOLVED, OUT_OF_SCOPE = "supported", "contradicted", "unresolved", "out of scope here"
VERDICTS = (SUPPORTED, CONTRADICTED, UNRESOLVED, OUT_OF_SCOPE)  # the only list of them
