"""What breaks which check of `verify` in the database of tests/integration/sales.py."""


def of_pass(columns: str, where: str, number: int = 0) -> str:
    """Columns of one pass, as an expression; the first of those, else the one of that number."""
    return (
        f"(SELECT {columns} FROM passes WHERE {where}"
        f" ORDER BY purchase_time, pass_id LIMIT 1 OFFSET {number})"
    )


def one(where: str) -> str:
    """What belongs to one pass, as a condition."""
    return f"(user_id, pass_id) = {of_pass('user_id, pass_id', where)}"


def moved(user_id: str, product_id: str, revision: int = 1, time: str = "purchase_time") -> str:
    """A plain pass becomes one of another product, and the counters know it."""
    return f"""
        UPDATE passes SET product_id = '{product_id}', product_revision = {revision},
            purchase_time = {time}, start_time = {time}
        WHERE {one(f"product_id = 'plain' AND user_id = '{user_id}'")};
        UPDATE product_stock SET sold = sold - 1 WHERE product_id = 'plain';
        UPDATE product_stock SET sold = sold + 1 WHERE product_id = '{product_id}';"""


def counted(product_id: str, places: int) -> str:
    """What has been sold of a product, so many more."""
    return (
        f"UPDATE product_stock SET sold = sold + {places}, sold_out = sold + {places} >= stock"
        f" AND stock IS NOT NULL WHERE product_id = '{product_id}';"
    )


def held_of(product_id: str) -> str:
    """What is held becomes a hold of another product, and the counters know it."""
    return f"""
        UPDATE passes SET product_id = '{product_id}' WHERE product_id = 'held';
        UPDATE holds SET product_id = '{product_id}' WHERE product_id = 'held';
        {counted("held", -1)} {counted(product_id, 1)}"""


def placed(where: str, product_id: str) -> str:
    """A place for a pass that has none, and the counters know it."""
    return f"""
        INSERT INTO holds SELECT product_id, hold_expire_time, user_id, pass_id
        FROM passes WHERE {where}; {counted(product_id, 1)}"""


def told(event_type: str, where: str) -> str:
    """Something more that has happened to a pass."""
    user, name = of_pass("user_id", where), of_pass("pass_id", where)
    return f"""
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = {user};
        INSERT INTO events SELECT user_id, last_event_seq, '{event_type}', {name}, now()
        FROM user_sequences WHERE user_id = {user};"""


def exchanged(one_type: str, other: str, where: str) -> str:
    """Two things that have happened to a pass, the other way round."""
    return f"""
        UPDATE events SET event_type = CASE event_type WHEN '{one_type}' THEN '{other}'
            ELSE '{one_type}' END
        WHERE {where} AND event_type IN ('{one_type}', '{other}')"""


def used(refund: str) -> str:
    """Half of a bundle was used before it was given back, for so much."""
    return f"""
        {ANY_KIND}
        UPDATE ledger_entries SET entry_number = 3, energy_wh = energy_wh / 2
        WHERE kind = 'CANCELLATION' AND {RETURNED};
        {entered("'OTHER', -30250, NULL", RETURNED)};
        UPDATE passes SET refund_micros = {refund} WHERE {RETURNED}"""


def renamed(user_id: str, new: str) -> str:
    """A user's kept rows under another name."""
    tables = ("passes", "ledger_entries", "events", "payment_references", "user_sequences")
    return "".join(f"UPDATE {t} SET user_id = '{new}' WHERE user_id = '{user_id}';" for t in tables)


def with_first_monthly(before: str) -> str:
    """The first of two rolling purchases, so long before the second."""
    times = "(SELECT max(purchase_time) FROM passes WHERE product_id = 'monthly')"
    first = one("product_id = 'monthly'")
    return (
        f"UPDATE passes SET purchase_time = {times} - {before}, start_time = {times} - {before}"
        f" WHERE {first}"
    )


def later(product_id: str, revision: int) -> str:
    """Passes of a revision, bought an hour later."""
    return (
        "UPDATE passes SET purchase_time = purchase_time + interval '1 hour',"
        " start_time = start_time + interval '1 hour'"
        f" WHERE product_id = '{product_id}' AND product_revision = {revision}"
    )


def shown_otherwise(balance: str, product_id: str) -> str:
    """The view adds one to a balance of a product's passes."""
    more = f"({balance} + (p.product_id = ''{product_id}'')::integer)"
    return f"""DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW passes_with_balance AS '
        || replace(pg_get_viewdef('passes_with_balance'), '{balance}', '{more}'); END $$"""


def entered(entry: str, where: str, number: int = 2) -> str:
    """One more entry in the ledger of a pass."""
    return (
        "INSERT INTO ledger_entries"
        f" SELECT user_id, pass_id, {number}, {entry}, purchase_time FROM passes WHERE {where}"
    )


ALICES, BOBS = (f"user_id = '{name}' AND product_id = 'plain'" for name in ("alice", "bob"))
ALICE = one(ALICES)
BUNDLE, CHARGES, FLAT = (one(f"product_id = '{name}'") for name in ("bundle", "charges", "flat"))
HELD, CONFIRMED, LEFT, RETURNED, LAPSED = (
    one(f"product_id = '{name}'") for name in ("held", "confirmed", "left", "returned", "lapsed")
)
AGAIN, CHARGES_BACK, FLAT_BACK, PERCENT_BACK = (
    one(f"product_id = '{name}-back' AND closed_as = 'CANCELLED'")
    for name in ("again", "charges", "flat", "percent")
)
BRIEF_BACK = one("product_id = 'brief' AND closed_as = 'CANCELLED'")
EXPIRED = one("product_id = 'brief' AND closed_as = 'EXPIRED'")
OVER = one("product_id = 'last' AND closed_as = 'LAPSED'")
UNUSED = one("product_id = 'unused-back' AND closed_as IS NULL")
AHEAD = one("product_id = 'ahead-back' AND closed_as IS NULL")
PSEUDONYM_A, PSEUDONYM_B = (
    f"user_id = (SELECT {which}(user_id) FROM passes WHERE user_id LIKE 'erased-%')"
    for which in ("min", "max")
)
ANY_KIND = "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind_check;"
ANY_END = "ALTER TABLE passes DROP CONSTRAINT closed_passes_say_how;"
ANY_REFUND = "ALTER TABLE passes DROP CONSTRAINT refunds_are_of_paid_cancelled_passes;"
SECOND, HOUR = "interval '1 second'", "interval '1 hour'"
REVISABLE = "ALTER TABLE product_revisions DISABLE TRIGGER product_revisions_are_immutable;"

# What breaks which check, and it alone. One breach each, but for MORE.
MUTATIONS = {
    "sold_counters: one too many": (
        "UPDATE product_stock SET sold = sold + 1 WHERE product_id = 'plain'"
    ),
    "sold_counters: a hold that is not counted": counted("held", -1),
    "sold_counters: cancelled and not given back": counted("returned", 1),
    "sold_counters: lapsed and not given back": counted("lapsed", 1),
    "sold_counters: expired and given back": counted("brief", -1),
    "stock_not_exceeded: a hold beyond the stock": (
        "ALTER TABLE product_stock DROP CONSTRAINT never_oversold;" + held_of("stocked")
    ),
    "stock_not_exceeded: a sixth of five": (
        "ALTER TABLE product_stock DROP CONSTRAINT never_oversold;" + moved("bob", "stocked")
    ),
    "sold_out_flags: set": ("UPDATE product_stock SET sold_out = true WHERE product_id = 'plain'"),
    "sold_out_flags: not set": (
        "UPDATE product_stock SET sold_out = false WHERE product_id = 'stocked'"
    ),
    "product_rows: a revision that is not there": (
        "UPDATE products SET revision = 7 WHERE product_id = 'plain'"
    ),
    "product_rows: no stock row": "DELETE FROM product_stock WHERE product_id = 'unsold'",
    "product_rows: a gap in the revisions": (
        REVISABLE + "DELETE FROM product_revisions WHERE product_id = 'unsold' AND revision = 1"
    ),
    "product_rows: no product": "DELETE FROM products WHERE product_id = 'plain'",
    "stock_and_limit_as_revised: stock": (
        "UPDATE product_stock SET stock = 6, sold_out = false WHERE product_id = 'stocked'"
    ),
    "stock_and_limit_as_revised: stock where none is set": (
        "UPDATE product_stock SET stock = 1000 WHERE product_id = 'plain'"
    ),
    "stock_and_limit_as_revised: limit": (
        "UPDATE product_stock SET max_purchases = 3 WHERE product_id = 'twice'"
    ),
    "stock_and_limit_as_revised: days": (
        "UPDATE product_stock SET rolling_days = 29 WHERE product_id = 'monthly'"
    ),
    "personal_limits: a third of two": moved("alice", "twice"),
    "personal_limits: within the days": with_first_monthly("interval '240 hours'"),
    "personal_limits: a microsecond within the days": with_first_monthly(
        "(interval '720 hours' - interval '1 microsecond')"
    ),
    "personal_limits: after the limit was lowered": moved(
        "lou", "lowered", 2, "purchase_time + interval '1 hour'"
    ),
    "personal_limits: a hold beside a pass": held_of("once"),
    "personal_limits: given back after the next was bought": (
        f"UPDATE passes SET close_time = close_time + {HOUR} WHERE {AGAIN}"
    ),
    "personal_limits: held until after the next was bought": (
        f"UPDATE passes SET hold_expire_time = hold_expire_time + {HOUR},"
        f" close_time = close_time + {HOUR} WHERE {OVER}"
    ),
    "withdrawn_not_sold: with an update": later("revised", 1),
    "withdrawn_not_sold: with the retirement": later("revised", 2),
    "withdrawals_as_recorded: lost": (
        "UPDATE product_stock SET withdrawn_before_revision = 2 WHERE product_id = 'revised'"
    ),
    "withdrawals_as_recorded: made up": (
        "UPDATE product_stock SET withdrawn_before_revision = 1 WHERE product_id = 'plain'"
    ),
    "pass_revisions: none": f"UPDATE passes SET product_revision = 99 WHERE {ALICE}",
    "prices: a micro-unit": f"UPDATE passes SET price_micros = price_micros + 1 WHERE {ALICE}",
    "prices: currency": f"UPDATE passes SET currency_code = 'SEK' WHERE {ALICE}",
    "prices: not a number": (
        REVISABLE + "UPDATE product_revisions SET terms = jsonb_set(terms, '{price}', '\"x NOK\"')"
        " WHERE product_id = 'flat'"
    ),
    "pass_states: closed at no time": (
        f"{ANY_END} UPDATE passes SET close_time = NULL WHERE {LAPSED}"
    ),
    "pass_states: closed as nothing": (
        f"{ANY_END} UPDATE passes SET close_time = now() WHERE {ALICE}"
    ),
    "pass_states: closed as something else": (
        f"{ANY_END} UPDATE passes SET close_time = now(), closed_as = 'LOST' WHERE {ALICE}"
    ),
    "pass_states: confirmed without a hold": (
        f"UPDATE passes SET confirm_time = purchase_time WHERE {ALICE}"
    ),
    "pass_states: confirmed when the hold was over": (
        f"UPDATE passes SET hold_expire_time = confirm_time WHERE {CONFIRMED}"
    ),
    "pass_states: confirmed before it was held": (
        f"UPDATE passes SET purchase_time = confirm_time + 2 * {SECOND} WHERE {CONFIRMED}"
    ),
    "pass_states: closed before it was held": (
        f"UPDATE passes SET close_time = purchase_time - 2 * {SECOND} WHERE {LEFT}"
    ),
    "pass_states: a beginning that is missing": (
        f"UPDATE passes SET start_time = NULL WHERE {ALICE}"
    ),
    "pass_states: good before it is paid": (
        f"UPDATE passes SET start_time = purchase_time, end_time = hold_expire_time WHERE {HELD}"
    ),
    "pass_states: paid and never good": (
        f"UPDATE passes SET start_time = NULL, end_time = NULL WHERE {ALICE}"
    ),
    "pass_states: a period and a first use": (
        f"UPDATE passes SET first_use_before = end_time WHERE {ALICE}"
    ),
    "pass_states: lapsed though it was paid": (
        "UPDATE passes SET closed_as = 'LAPSED', close_time = hold_expire_time"
        f" WHERE {CONFIRMED};" + told("PASS_LAPSED", "product_id = 'confirmed'")
    ),
    "pass_states: lapsed before its time": (
        f"UPDATE passes SET hold_expire_time = close_time + 2 * {SECOND} WHERE {LAPSED}"
    ),
    "pass_states: expired though it was not paid": f"""
        UPDATE passes SET closed_as = 'EXPIRED' WHERE {LAPSED};
        UPDATE events SET event_type = 'PASS_EXPIRED'
        WHERE {LAPSED} AND event_type = 'PASS_LAPSED'""",
    "pass_states: expired a microsecond before its end": (
        f"UPDATE passes SET end_time = close_time + interval '1 microsecond' WHERE {EXPIRED}"
    ),
    "pass_states: cancelled at its end": (
        f"UPDATE passes SET end_time = close_time WHERE {RETURNED}"
    ),
    "pass_states: a hold cancelled when it was over": (
        f"UPDATE passes SET hold_expire_time = close_time WHERE {LEFT}"
    ),
    "validity_from_payment: from when it was held": (
        f"UPDATE passes SET start_time = purchase_time WHERE {CONFIRMED}"
    ),
    "validity_from_payment: later than it was paid": (
        f"UPDATE passes SET start_time = start_time + {SECOND} WHERE {ALICE}"
    ),
    "validity_from_payment: before the instant agreed": (
        f"UPDATE passes SET start_time = purchase_time WHERE {AHEAD}"
    ),
    "validity_from_payment: agreed from what is no instant": (
        REVISABLE + "UPDATE product_revisions SET terms ="
        """ jsonb_set(terms, '{validity,start_time}', '"soon"') WHERE product_id = 'ahead-back'"""
    ),
    "validity_from_payment: used before it was bought": (
        f"UPDATE passes SET start_time = purchase_time - {SECOND}, end_time = first_use_before,"
        f" first_use_before = NULL WHERE {UNUSED}"
    ),
    "holds_are_held: no pass": (
        f"INSERT INTO holds VALUES ('plain', now() + {HOUR}, 'alice', gen_random_uuid());"
        + counted("plain", 1)
    ),
    "holds_are_held: paid": placed(CONFIRMED, "confirmed"),
    "holds_are_held: cancelled": placed(LEFT, "left"),
    "holds_are_held: lapsed": placed(LAPSED, "lapsed"),
    "holds_are_held: another product": (
        "UPDATE holds SET product_id = 'plain' WHERE product_id = 'held';"
        + counted("held", -1)
        + counted("plain", 1)
    ),
    "holds_are_held: another time": (
        f"UPDATE holds SET hold_expire_time = hold_expire_time + {SECOND} WHERE {HELD}"
    ),
    "held_have_places: none": f"DELETE FROM holds WHERE {HELD};" + counted("held", -1),
    "cancelled_in_terms: when their time was over": (
        f"UPDATE passes SET close_time = confirm_time + interval '336 hours' WHERE {RETURNED}"
    ),
    "cancelled_in_terms: none agreed": (
        REVISABLE + "UPDATE product_revisions SET terms = terms - 'withdrawal_days'"
        " WHERE product_id = 'returned'"
    ),
    "refunds: none": f"UPDATE passes SET refund_micros = NULL WHERE {RETURNED}",
    "refunds: of what was not cancelled": (
        f"{ANY_REFUND} UPDATE passes SET refund_micros = 0 WHERE {ALICE}"
    ),
    "refunds: of what has expired": (
        f"{ANY_REFUND} UPDATE passes SET refund_micros = 0 WHERE {EXPIRED}"
    ),
    "refunds: of what was not paid": (
        f"{ANY_REFUND} UPDATE passes SET refund_micros = 0 WHERE {LEFT}"
    ),
    "refunds: more than the price": (
        f"{ANY_REFUND} UPDATE passes SET refund_micros = price_micros + 1 WHERE {PERCENT_BACK}"
    ),
    "refunds: less than nothing": (
        f"{ANY_REFUND} UPDATE passes SET refund_micros = -1 WHERE {RETURNED}"
    ),
    "refunds: not all of an unused bundle": (
        f"UPDATE passes SET refund_micros = refund_micros - 1 WHERE {RETURNED}"
    ),
    "refunds: not all of unused sessions": (
        f"UPDATE passes SET refund_micros = refund_micros - 1 WHERE {CHARGES_BACK}"
    ),
    "refunds: all of a bundle that was used": used("price_micros"),
    "refunds: not by the time left": (
        f"UPDATE passes SET refund_micros = refund_micros - 600000 WHERE {PERCENT_BACK}"
    ),
    "refunds: not by the time left of a flat period": (
        f"UPDATE passes SET refund_micros = refund_micros - 600000 WHERE {FLAT_BACK}"
    ),
    "refunds: all though time was used": (
        f"UPDATE passes SET refund_micros = price_micros WHERE {BRIEF_BACK}"
    ),
    "balances: energy": shown_otherwise("sum(e.energy_wh)", "bundle"),
    "balances: sessions": shown_otherwise("sum(e.sessions)", "charges"),
    "balances: entries": shown_otherwise("count(*)", "bundle"),
    "balances_not_negative: energy": ANY_KIND + entered("'OTHER', -60501, NULL", BUNDLE),
    "balances_not_negative: sessions": ANY_KIND + entered("'OTHER', NULL, -11", CHARGES),
    "charge_entries: reserved without an entry": (
        "UPDATE charge_passes SET reserved_energy_wh = reserved_energy_wh + 1"
        " WHERE reserved_energy_wh > 0"
    ),
    "charge_entries: an entry without a charge": entered("'CAPTURE', -1, NULL", BUNDLE),
    "charge_entries: taken twice": (
        "UPDATE ledger_entries SET energy_wh = 2 * energy_wh"
        " WHERE kind = 'CAPTURE' AND user_id = 'dora';"
        "UPDATE passes SET left_energy_wh = left_energy_wh - 10000 WHERE user_id = 'dora'"
    ),
    "charge_entries: not given back": (
        "UPDATE ledger_entries SET energy_wh = energy_wh - 1 WHERE kind = 'REVERSAL';"
        "UPDATE passes SET left_energy_wh = left_energy_wh - 1 WHERE user_id = 'dirk'"
    ),
    "amounts_left: energy": (
        "UPDATE passes SET left_energy_wh = left_energy_wh - 1 WHERE product_id = 'reversed'"
    ),
    "amounts_left: sessions": (
        "UPDATE passes SET left_sessions = 7 WHERE user_id = 'bob' AND product_id = 'charges'"
    ),
    "charges_by_status: reserved after its end": (
        "UPDATE charges SET status = 'RELEASED' WHERE status = 'AUTHORIZED'"
    ),
    "charges_by_status: taken and reversed": (
        "UPDATE charges SET status = 'REVERSED' WHERE status = 'CAPTURED'"
    ),
    "charges_by_status: no charge": "DELETE FROM charges WHERE status = 'CAPTURED'",
    "opening_entries: none": f"DELETE FROM ledger_entries WHERE {ALICE}",
    "opening_entries: two": entered("'OPENING', 0, NULL", BUNDLE),
    "opening_entries: not the first": (
        f"{ANY_KIND} UPDATE ledger_entries SET entry_number = 2 WHERE {BUNDLE};"
        + entered("'OTHER', 0, NULL", BUNDLE, number=1)
    ),
    "opening_entries: of what is not paid": entered("'OPENING', 60500, NULL", HELD, number=1),
    "opening_entries: of another kind": (
        f"{ANY_KIND} UPDATE ledger_entries SET kind = 'OTHER' WHERE {BUNDLE}"
    ),
    "opening_entries: a watt-hour too many": (
        f"UPDATE ledger_entries SET energy_wh = energy_wh + 1 WHERE {BUNDLE}"
    ),
    "opening_entries: not the fair-use cap": (
        f"UPDATE ledger_entries SET energy_wh = 1 WHERE {FLAT}"
    ),
    "opening_entries: a session too few": (
        f"UPDATE ledger_entries SET sessions = sessions - 1 WHERE {CHARGES}"
    ),
    "opening_entries: energy where there is none": (
        f"UPDATE ledger_entries SET energy_wh = 0 WHERE {ALICE}"
    ),
    "cancellation_entries: none": (
        f"DELETE FROM ledger_entries WHERE kind = 'CANCELLATION' AND {RETURNED}"
    ),
    "cancellation_entries: two": entered("'CANCELLATION', 0, NULL", RETURNED, number=3),
    "cancellation_entries: not the last": (
        ANY_KIND + entered("'OTHER', 0, NULL", RETURNED, number=3)
    ),
    "cancellation_entries: a watt-hour is left": (
        "UPDATE ledger_entries SET energy_wh = energy_wh + 1"
        f" WHERE kind = 'CANCELLATION' AND {FLAT_BACK}"
    ),
    "cancellation_entries: a session is left": (
        f"{ANY_KIND} UPDATE ledger_entries SET entry_number = 3"
        f" WHERE kind = 'CANCELLATION' AND {CHARGES_BACK};"
        + entered("'OTHER', NULL, 1", CHARGES_BACK)
    ),
    "cancellation_entries: of what is not cancelled": entered(
        "'CANCELLATION', -60500, NULL", BUNDLE
    ),
    "cancellation_entries: of a hold": entered("'CANCELLATION', NULL, NULL", LEFT, number=1),
    "entry_numbers: a gap": (
        f"UPDATE ledger_entries SET entry_number = 3 WHERE entry_number = 2 AND {RETURNED}"
    ),
    "entry_numbers: a repeat": (
        f"{ANY_KIND} ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey;"
        + entered("'OTHER', 0, NULL", BUNDLE, number=1)
    ),
    "entries_have_passes: made up": (
        "INSERT INTO ledger_entries"
        " VALUES ('alice', gen_random_uuid(), 1, 'OPENING', NULL, NULL, now())"
    ),
    "pass_events: one told twice, one never": (
        f"UPDATE events SET pass_id = {of_pass('pass_id', ALICES, 1)} WHERE {ALICE}"
    ),
    "pass_events: of another type": (
        f"UPDATE events SET event_type = 'PASS_CANCELLED' WHERE {ALICE}"
    ),
    "pass_events: held, and not told": (
        f"UPDATE events SET event_type = 'PASS_PURCHASED' WHERE {HELD}"
    ),
    "pass_events: lapsed, and told as expired": (
        "UPDATE events SET event_type = 'PASS_EXPIRED'"
        f" WHERE event_type = 'PASS_LAPSED' AND {LAPSED}"
    ),
    "pass_events: an end that has not come": told("PASS_EXPIRED", ALICES),
    "pass_events: cancelled twice": told("PASS_CANCELLED", "product_id = 'returned'"),
    "pass_events: paid before it was held": exchanged("PASS_HELD", "PASS_PURCHASED", CONFIRMED),
    "pass_events: cancelled before it was paid": exchanged(
        "PASS_PURCHASED", "PASS_CANCELLED", AGAIN
    ),
    "pass_events: lapsed before it was held": exchanged("PASS_HELD", "PASS_LAPSED", LAPSED),
    "events_have_passes: made up": """
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice';
        INSERT INTO events
        SELECT user_id, last_event_seq, 'PASS_PURCHASED', gen_random_uuid(), now()
        FROM user_sequences WHERE user_id = 'alice'""",
    "event_numbers: a gap": """
        UPDATE events SET event_seq = event_seq + 1 WHERE (user_id, event_seq) = (
            SELECT user_id, last_event_seq FROM user_sequences WHERE user_id = 'alice');
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice'""",
    "event_numbers: from 0": """
        UPDATE events SET event_seq = 0 WHERE user_id = 'alice' AND event_seq = 1""",
    "event_numbers: a gap and a repeat": """
        ALTER TABLE events DROP CONSTRAINT events_pkey;
        UPDATE events SET event_seq = 2 WHERE user_id = 'alice' AND event_seq = 3""",
    "last_event_numbers: too high": """
        UPDATE user_sequences SET last_event_seq = last_event_seq + 1 WHERE user_id = 'alice'""",
    "last_event_numbers: of a user without events": (
        "INSERT INTO user_sequences VALUES ('nobody', 1)"
    ),
    "last_event_numbers: none": "DELETE FROM user_sequences WHERE user_id = 'alice'",
    "event_positions_unique: given twice": """
        UPDATE events SET position = position - 1
        WHERE position = (SELECT max(position) FROM events);
        UPDATE event_stream SET last_position = last_position - 1""",
    "event_positions_unique: beyond the end": (
        "UPDATE event_stream SET last_position = last_position - 1"
    ),
    "event_positions_unique: before the first": """
        UPDATE events SET position = position - 1;
        UPDATE event_stream SET last_position = last_position - 1""",
    "event_positions_without_gaps: one": """
        UPDATE events SET position = NULL WHERE (user_id, event_seq) = (
            SELECT user_id, last_event_seq FROM user_sequences WHERE user_id = 'alice')""",
    "event_positions_without_gaps: the first": """
        UPDATE events SET position = position + 1;
        UPDATE event_stream SET last_position = last_position + 1""",
    "event_positions_without_gaps: the last two": (
        "UPDATE event_stream SET last_position = last_position + 2"
    ),
    "event_positions_in_order: one waits": """
        UPDATE events e SET position = NULL WHERE (user_id, event_seq) = (
            SELECT user_id, event_seq - 1 FROM events
            WHERE position = (SELECT last_position FROM event_stream));
        UPDATE events e SET position = missing.position
        FROM (
            SELECT position FROM generate_series(1, (SELECT last_position FROM event_stream))
                AS g (position)
            WHERE position NOT IN (SELECT position FROM events WHERE position IS NOT NULL)
        ) missing
        WHERE e.position = (SELECT last_position FROM event_stream);
        UPDATE event_stream SET last_position = last_position - 1""",
    "event_positions_in_order: exchanged": """
        UPDATE events SET position = -position
        WHERE user_id = 'alice' AND event_seq IN (1, 2);
        UPDATE events e SET position = -o.position FROM events o
        WHERE e.user_id = 'alice' AND o.user_id = 'alice'
            AND (e.event_seq, o.event_seq) IN ((1, 2), (2, 1))""",
    "pass_ids_unique: two users'": "".join(
        f"UPDATE {table} SET pass_id = {of_pass('pass_id', PSEUDONYM_A)}"
        f" WHERE pass_id = {of_pass('pass_id', PSEUDONYM_B)};"
        for table in ("ledger_entries", "events", "payment_references", "passes")
    ),
    "request_ids_unique: two of a user": (
        f"UPDATE passes SET request_id = {of_pass('request_id', PSEUDONYM_A)} WHERE {PSEUDONYM_A}"
    ),
    "offers_bought_once: by two users": (
        f"UPDATE passes SET offer_digest = {of_pass('offer_digest', BOBS)} WHERE {ALICE}"
    ),
    "references_pay_once: two passes": f"""
        DELETE FROM payment_references WHERE {ALICE};
        UPDATE passes SET payment_reference = {of_pass("payment_reference", BOBS)}
        WHERE {ALICE}""",
    "passes_are_paid: unclaimed": f"DELETE FROM payment_references WHERE {ALICE}",
    "passes_are_paid: by nothing": f"""
        DELETE FROM payment_references WHERE {ALICE};
        UPDATE passes SET payment_reference = '' WHERE {ALICE}""",
    "passes_are_paid: a payment for what is not paid": (
        f"UPDATE passes SET payment_reference = 'pay-secret' WHERE {HELD}"
    ),
    "claims_have_passes: of what is not paid": (
        "INSERT INTO payment_references"
        f" SELECT 'pay-secret', user_id, pass_id FROM passes WHERE {HELD}"
    ),
    "claims_have_passes: of no name": (
        f"INSERT INTO payment_references SELECT '', user_id, pass_id FROM passes WHERE {HELD}"
    ),
    "claims_have_passes: made up": (
        "INSERT INTO payment_references VALUES ('pay-secret', 'alice', gen_random_uuid())"
    ),
    "claims_have_passes: another user's": (
        f"UPDATE payment_references SET user_id = 'bob' WHERE {ALICE}"
    ),
    "claims_have_passes: exchanged": f"""
        UPDATE payment_references SET (user_id, pass_id) = (
            SELECT p.user_id, p.pass_id FROM passes p
            WHERE p.user_id IN ('alice', 'bob') AND p.product_id = 'plain'
                AND p.payment_reference <> payment_references.payment_reference
                AND p.payment_reference IN (
                    {of_pass("payment_reference", ALICES)}, {of_pass("payment_reference", BOBS)}))
        WHERE payment_reference IN (
            {of_pass("payment_reference", ALICES)}, {of_pass("payment_reference", BOBS)})""",
    "versions: none": "DELETE FROM versions WHERE name = 'catalogue'",
    "versions: nought": "UPDATE versions SET version = 0 WHERE name = 'locations'",
    "pass_ids: of another request": (
        f"UPDATE passes SET request_id = gen_random_uuid() WHERE {ALICE}"
    ),
    "pass_ids: of another user": renamed("carol", "caroline"),
    "pass_ids: of a user_id that is not ASCII": renamed("carol", "carøl"),
    "pass_ids: under what only looks like a pseudonym": renamed("carol", "erased-carol"),
}
MORE = {
    "validity_from_payment: agreed from what is no instant": 2,
    "pass_events: one told twice, one never": 2,
    "pass_ids_unique: two users'": 2,
    "event_positions_unique: given twice": 2,
    "request_ids_unique: two of a user": 2,
    "offers_bought_once: by two users": 2,
    "references_pay_once: two passes": 2,
    "claims_have_passes: exchanged": 2,
}
