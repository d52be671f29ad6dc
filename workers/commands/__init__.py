"""One room for each family of `webhooks` commands, imported only when one of them is called."""
