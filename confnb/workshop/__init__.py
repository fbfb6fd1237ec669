"""What has no hand in a number: the runner, the site, the command line."""
