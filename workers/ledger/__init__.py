"""The database: deliveries, their runs, the sessions they tell of, and the pushes that come of them."""
