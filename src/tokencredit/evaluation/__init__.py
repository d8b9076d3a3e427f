"""Who wins, how often, how surely: win rates, strengths, and judges of answers."""
