"""The commands of `webhooks`: a module for each family, imported only when one of them is called."""
