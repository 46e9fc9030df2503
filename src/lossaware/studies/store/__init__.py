"""Results that survive a kill: a database, exported files, and the folder that holds them."""
