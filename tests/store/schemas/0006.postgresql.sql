CREATE TABLE ac_alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE ac_answers (
    id bigint NOT NULL,
    trial_id bigint NOT NULL,
    split character varying NOT NULL,
    first integer NOT NULL,
    items integer NOT NULL,
    payload jsonb,
    error text,
    recorded_at character varying NOT NULL,
    CONSTRAINT ck_ac_answers_ck_ac_answers_outcome CHECK (((payload IS NULL) = (error IS NOT NULL)))
);
CREATE SEQUENCE ac_answers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_answers_id_seq OWNED BY ac_answers.id;
CREATE TABLE ac_document (
    id bigint NOT NULL,
    study_id bigint NOT NULL,
    name character varying NOT NULL,
    payload jsonb NOT NULL
);
CREATE SEQUENCE ac_document_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_document_id_seq OWNED BY ac_document.id;
CREATE TABLE ac_event (
    id bigint NOT NULL,
    study_id bigint NOT NULL,
    "position" integer NOT NULL,
    kind character varying NOT NULL,
    payload jsonb NOT NULL
);
CREATE SEQUENCE ac_event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_event_id_seq OWNED BY ac_event.id;
CREATE TABLE ac_measurement (
    id bigint NOT NULL,
    trial_id bigint NOT NULL,
    split character varying NOT NULL,
    draw integer NOT NULL,
    first integer NOT NULL,
    sequences integer NOT NULL,
    kl bytea,
    nll bytea,
    tokens integer,
    error text,
    seconds double precision NOT NULL,
    recorded_at character varying NOT NULL,
    trained integer DEFAULT 0 NOT NULL,
    CONSTRAINT ck_ac_measurement_outcome CHECK (((kl IS NULL) = (error IS NOT NULL)))
);
CREATE SEQUENCE ac_measurement_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_measurement_id_seq OWNED BY ac_measurement.id;
CREATE TABLE ac_profile (
    id bigint NOT NULL,
    key character varying(64) NOT NULL,
    about jsonb NOT NULL,
    measured_at character varying NOT NULL,
    payload jsonb NOT NULL
);
CREATE SEQUENCE ac_profile_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_profile_id_seq OWNED BY ac_profile.id;
CREATE TABLE ac_run (
    id bigint NOT NULL,
    schedule_id bigint NOT NULL,
    due_at character varying NOT NULL,
    state character varying NOT NULL,
    claimed_by character varying NOT NULL,
    claimed_at character varying NOT NULL,
    beat_at character varying NOT NULL,
    finished_at character varying,
    verdict jsonb
);
CREATE SEQUENCE ac_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_run_id_seq OWNED BY ac_run.id;
CREATE TABLE ac_schedule (
    id bigint NOT NULL,
    name character varying NOT NULL,
    cron character varying NOT NULL,
    zone character varying NOT NULL,
    spec jsonb NOT NULL,
    settings jsonb NOT NULL,
    created_at character varying NOT NULL
);
CREATE SEQUENCE ac_schedule_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_schedule_id_seq OWNED BY ac_schedule.id;
CREATE TABLE ac_study (
    id bigint NOT NULL,
    name character varying NOT NULL,
    state character varying NOT NULL,
    created_at character varying NOT NULL,
    finished_at character varying,
    spec jsonb NOT NULL,
    report jsonb,
    driver character varying,
    beat_at character varying
);
CREATE SEQUENCE ac_study_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_study_id_seq OWNED BY ac_study.id;
CREATE TABLE ac_trial (
    id bigint NOT NULL,
    study_id bigint NOT NULL,
    key character varying(32) NOT NULL,
    genotype bytea NOT NULL,
    sequences integer DEFAULT 0 NOT NULL,
    loss double precision
);
CREATE SEQUENCE ac_trial_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ac_trial_id_seq OWNED BY ac_trial.id;
ALTER TABLE ONLY ac_answers ALTER COLUMN id SET DEFAULT nextval('ac_answers_id_seq'::regclass);
ALTER TABLE ONLY ac_document ALTER COLUMN id SET DEFAULT nextval('ac_document_id_seq'::regclass);
ALTER TABLE ONLY ac_event ALTER COLUMN id SET DEFAULT nextval('ac_event_id_seq'::regclass);
ALTER TABLE ONLY ac_measurement ALTER COLUMN id SET DEFAULT nextval('ac_measurement_id_seq'::regclass);
ALTER TABLE ONLY ac_profile ALTER COLUMN id SET DEFAULT nextval('ac_profile_id_seq'::regclass);
ALTER TABLE ONLY ac_run ALTER COLUMN id SET DEFAULT nextval('ac_run_id_seq'::regclass);
ALTER TABLE ONLY ac_schedule ALTER COLUMN id SET DEFAULT nextval('ac_schedule_id_seq'::regclass);
ALTER TABLE ONLY ac_study ALTER COLUMN id SET DEFAULT nextval('ac_study_id_seq'::regclass);
ALTER TABLE ONLY ac_trial ALTER COLUMN id SET DEFAULT nextval('ac_trial_id_seq'::regclass);
INSERT INTO ac_alembic_version VALUES ('0006');
INSERT INTO ac_answers VALUES (1, 1, 'search', 0, 2, '{"scores": [1.0, 0.0]}', NULL, '2026-11-01T02:06:00+00:00');
INSERT INTO ac_document VALUES (1, 1, 'winner', '{"levels": [0, 3, 1]}');
INSERT INTO ac_event VALUES (1, 1, 0, 'stop', '{"phase": 0}');
INSERT INTO ac_measurement VALUES (1, 1, 'search', 0, 0, 2, '\x9a9999999999b93f9a9999999999c93f', '\x0000000000000440cdcccccccccc0440', 127, NULL, 0.25, '2026-11-01T02:05:00+00:00', 0);
INSERT INTO ac_profile VALUES (1, '0000000000000000000000000000000000000000000000000000000000000000', '{"engine": "torch"}', '2026-11-01T02:01:00+00:00', '{}');
INSERT INTO ac_run VALUES (1, 1, '2026-11-01T01:00:00+00:00', 'finished', 'host:1:1.00:a', '2026-11-01T01:00:00+00:00', '2026-11-01T01:00:00+00:00', '2026-11-01T01:10:00+00:00', '{"outcome": "KEPT"}');
INSERT INTO ac_schedule VALUES (1, 'nightly', '0 2 * * *', 'Europe/Berlin', '{"model": "m", "target_speedup": 2.0}', '{"output": "out"}', '2026-11-01T00:00:00+00:00');
INSERT INTO ac_study VALUES (1, 'old', 'finished', '2026-11-01T02:00:00+00:00', '2026-11-01T02:10:00+00:00', '{"model": "m", "target_speedup": 2.0}', '{"met": true}', NULL, NULL);
INSERT INTO ac_trial VALUES (1, 1, 'ae0bc77027ebf0efcb6d7e84dd396379', '\x000301', 2, 0.15);
SELECT pg_catalog.setval('ac_answers_id_seq', 1, true);
SELECT pg_catalog.setval('ac_document_id_seq', 1, true);
SELECT pg_catalog.setval('ac_event_id_seq', 1, true);
SELECT pg_catalog.setval('ac_measurement_id_seq', 1, true);
SELECT pg_catalog.setval('ac_profile_id_seq', 1, true);
SELECT pg_catalog.setval('ac_run_id_seq', 1, true);
SELECT pg_catalog.setval('ac_schedule_id_seq', 1, true);
SELECT pg_catalog.setval('ac_study_id_seq', 1, true);
SELECT pg_catalog.setval('ac_trial_id_seq', 1, true);
ALTER TABLE ONLY ac_alembic_version
    ADD CONSTRAINT ac_alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY ac_answers
    ADD CONSTRAINT pk_ac_answers PRIMARY KEY (id);
ALTER TABLE ONLY ac_document
    ADD CONSTRAINT pk_ac_document PRIMARY KEY (id);
ALTER TABLE ONLY ac_event
    ADD CONSTRAINT pk_ac_event PRIMARY KEY (id);
ALTER TABLE ONLY ac_measurement
    ADD CONSTRAINT pk_ac_measurement PRIMARY KEY (id);
ALTER TABLE ONLY ac_profile
    ADD CONSTRAINT pk_ac_profile PRIMARY KEY (id);
ALTER TABLE ONLY ac_run
    ADD CONSTRAINT pk_ac_run PRIMARY KEY (id);
ALTER TABLE ONLY ac_schedule
    ADD CONSTRAINT pk_ac_schedule PRIMARY KEY (id);
ALTER TABLE ONLY ac_study
    ADD CONSTRAINT pk_ac_study PRIMARY KEY (id);
ALTER TABLE ONLY ac_trial
    ADD CONSTRAINT pk_ac_trial PRIMARY KEY (id);
ALTER TABLE ONLY ac_answers
    ADD CONSTRAINT uq_ac_answers UNIQUE (trial_id, split, first, items);
ALTER TABLE ONLY ac_document
    ADD CONSTRAINT uq_ac_document UNIQUE (study_id, name);
ALTER TABLE ONLY ac_event
    ADD CONSTRAINT uq_ac_event UNIQUE (study_id, "position");
ALTER TABLE ONLY ac_measurement
    ADD CONSTRAINT uq_ac_measurement UNIQUE (trial_id, split, draw, first, sequences, trained);
ALTER TABLE ONLY ac_profile
    ADD CONSTRAINT uq_ac_profile UNIQUE (key);
ALTER TABLE ONLY ac_run
    ADD CONSTRAINT uq_ac_run UNIQUE (schedule_id, due_at);
ALTER TABLE ONLY ac_schedule
    ADD CONSTRAINT uq_ac_schedule UNIQUE (name);
ALTER TABLE ONLY ac_study
    ADD CONSTRAINT uq_ac_study UNIQUE (name);
ALTER TABLE ONLY ac_trial
    ADD CONSTRAINT uq_ac_trial UNIQUE (study_id, key);
CREATE INDEX ix_ac_trial_best ON ac_trial USING btree (study_id, sequences DESC, loss);
ALTER TABLE ONLY ac_answers
    ADD CONSTRAINT fk_ac_answers_trial_id FOREIGN KEY (trial_id) REFERENCES ac_trial(id);
ALTER TABLE ONLY ac_document
    ADD CONSTRAINT fk_ac_document_study_id FOREIGN KEY (study_id) REFERENCES ac_study(id);
ALTER TABLE ONLY ac_event
    ADD CONSTRAINT fk_ac_event_study_id FOREIGN KEY (study_id) REFERENCES ac_study(id);
ALTER TABLE ONLY ac_measurement
    ADD CONSTRAINT fk_ac_measurement_trial_id FOREIGN KEY (trial_id) REFERENCES ac_trial(id);
ALTER TABLE ONLY ac_run
    ADD CONSTRAINT fk_ac_run_schedule_id FOREIGN KEY (schedule_id) REFERENCES ac_schedule(id) ON DELETE CASCADE;
ALTER TABLE ONLY ac_trial
    ADD CONSTRAINT fk_ac_trial_study_id FOREIGN KEY (study_id) REFERENCES ac_study(id);
