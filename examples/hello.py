"""The smallest agent: ``aios run examples/hello.py``."""

import aios

print(aios.chat("Say hello to the world in one short sentence.", max_tokens=30).text)
