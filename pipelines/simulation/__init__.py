"""A shop with known truth, simulated at any size: for tests, for scale, never for claims.

plan          what is asked for, and the blocks of users it is cut into
words         categories, nouns in four languages, invented brands
shop          markets, seasons, promotions
catalogue     products and the errors planted in their descriptions
customers     tastes, rates, staples, hazards
visits        what customers view, fill into the cart, buy and send back
queries       what they type
staff         who works there, and leaves
oracle        what a perfect predictor would say
records       the tables of the shop's systems
truth         the tables that only the simulation can know
dirt          broken rows, on request
run           all of it to disk
"""
