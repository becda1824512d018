"""The APIs that clients speak. Only a broker is behind them: no engine, no torch."""
