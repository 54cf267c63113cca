"""A shop with known truth, simulated at any size: for tests, for scale, never for claims.

| module | what |
|---|---|
| `plan` | what is asked for, and the blocks of users it is cut into |
| `words` | categories, nouns in four languages, invented brands |
| `shop` | markets, seasons, promotions |
| `catalogue` | products and the errors planted in their descriptions |
| `queries` | what customers type |
| `world` | all of these together |
| `customers` | tastes, rates, staples, hazards |
| `visits` | what customers view, fill into the cart, buy and send back |
| `blocks` | users and all that they do, a block at a time |
| `oracle` | what a perfect predictor would say |
| `staff` | who works there, and leaves |
| `records`, `dirt` | the tables of the shop's systems; broken rows, on request |
| `truth` | the tables that only the simulation can know |
| `run`, `writer`, `description` | all of it to disk |
"""
