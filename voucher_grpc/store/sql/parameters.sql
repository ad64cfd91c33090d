-- active --
-- The parameters that count, if an operator has installed any.
SELECT data FROM forecast_parameters WHERE active

-- deactivate --
-- Before others become active.
UPDATE forecast_parameters SET active = false WHERE active

-- install --
-- The same version again replaces it.
INSERT INTO forecast_parameters (version, data, active, install_time)
VALUES ($1, $2, true, clock_timestamp())
ON CONFLICT (version) DO UPDATE SET data = $2, active = true, install_time = clock_timestamp()
