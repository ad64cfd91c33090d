"""The value of offers, measured on real sessions: backtest, baselines, fitting, simulation."""
