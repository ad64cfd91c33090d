-- What users of a kind charge (voucher_grpc.domain.tendencies.segments), made by
-- `tendencies rebuild` from at least twenty users each. "" is any. The older version
-- does not look at it.
CREATE TABLE segments (
    country_code text NOT NULL,
    vehicle_type text NOT NULL,
    profile_type text NOT NULL,
    users bigint NOT NULL,
    energy_kwh double precision[] NOT NULL,
    hours double precision[] NOT NULL,
    PRIMARY KEY (country_code, vehicle_type, profile_type)
);
