"""Supervised predictors of exits, and the policies made of them. Imports neither lightgbm nor torch until one is fitted."""
