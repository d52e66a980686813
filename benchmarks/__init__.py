"""Speed and accuracy of the estimators, each one command; not part of the installed package."""
