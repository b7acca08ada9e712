BEGIN TRANSACTION;
CREATE TABLE ac_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT ac_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "ac_alembic_version" VALUES('0006');
CREATE TABLE ac_answers (
	id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	split VARCHAR NOT NULL, 
	first INTEGER NOT NULL, 
	items INTEGER NOT NULL, 
	payload JSON, 
	error TEXT, 
	recorded_at VARCHAR NOT NULL, 
	CONSTRAINT pk_ac_answers PRIMARY KEY (id), 
	CONSTRAINT fk_ac_answers_trial_id FOREIGN KEY(trial_id) REFERENCES ac_trial (id), 
	CONSTRAINT uq_ac_answers UNIQUE (trial_id, split, first, items), 
	CONSTRAINT ck_ac_answers_ck_ac_answers_outcome CHECK ((payload IS NULL) = (error IS NOT NULL))
);
INSERT INTO "ac_answers" VALUES(1,1,'search',0,2,'{"scores": [1.0, 0.0]}',NULL,'2026-11-01T02:06:00+00:00');
CREATE TABLE ac_document (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	payload JSON NOT NULL, 
	CONSTRAINT pk_ac_document PRIMARY KEY (id), 
	CONSTRAINT fk_ac_document_study_id FOREIGN KEY(study_id) REFERENCES ac_study (id), 
	CONSTRAINT uq_ac_document UNIQUE (study_id, name)
);
INSERT INTO "ac_document" VALUES(1,1,'winner','{"levels": [0, 3, 1]}');
CREATE TABLE ac_event (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	payload JSON NOT NULL, 
	CONSTRAINT pk_ac_event PRIMARY KEY (id), 
	CONSTRAINT fk_ac_event_study_id FOREIGN KEY(study_id) REFERENCES ac_study (id), 
	CONSTRAINT uq_ac_event UNIQUE (study_id, position)
);
INSERT INTO "ac_event" VALUES(1,1,0,'stop','{"phase": 0}');
CREATE TABLE "ac_measurement" (
	id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	split VARCHAR NOT NULL, 
	draw INTEGER NOT NULL, 
	first INTEGER NOT NULL, 
	sequences INTEGER NOT NULL, 
	kl BLOB, 
	nll BLOB, 
	tokens INTEGER, 
	error TEXT, 
	seconds DOUBLE NOT NULL, 
	recorded_at VARCHAR NOT NULL, 
	trained INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_ac_measurement PRIMARY KEY (id), 
	CONSTRAINT fk_ac_measurement_trial_id FOREIGN KEY(trial_id) REFERENCES ac_trial (id), 
	CONSTRAINT ck_ac_measurement_outcome CHECK ((kl IS NULL) = (error IS NOT NULL)), 
	CONSTRAINT uq_ac_measurement UNIQUE (trial_id, split, draw, first, sequences, trained)
);
INSERT INTO "ac_measurement" VALUES(1,1,'search',0,0,2,X'9A9999999999B93F9A9999999999C93F',X'0000000000000440CDCCCCCCCCCC0440',127,NULL,0.25,'2026-11-01T02:05:00+00:00',0);
CREATE TABLE ac_profile (
	id INTEGER NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	about JSON NOT NULL, 
	measured_at VARCHAR NOT NULL, 
	payload JSON NOT NULL, 
	CONSTRAINT pk_ac_profile PRIMARY KEY (id), 
	CONSTRAINT uq_ac_profile UNIQUE ("key")
);
INSERT INTO "ac_profile" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','{"engine": "torch"}','2026-11-01T02:01:00+00:00','{}');
CREATE TABLE ac_run (
	id INTEGER NOT NULL, 
	schedule_id INTEGER NOT NULL, 
	due_at VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	claimed_by VARCHAR NOT NULL, 
	claimed_at VARCHAR NOT NULL, 
	beat_at VARCHAR NOT NULL, 
	finished_at VARCHAR, 
	verdict JSON, 
	CONSTRAINT pk_ac_run PRIMARY KEY (id), 
	CONSTRAINT fk_ac_run_schedule_id FOREIGN KEY(schedule_id) REFERENCES ac_schedule (id) ON DELETE CASCADE, 
	CONSTRAINT uq_ac_run UNIQUE (schedule_id, due_at)
);
INSERT INTO "ac_run" VALUES(1,1,'2026-11-01T01:00:00+00:00','finished','host:1:1.00:a','2026-11-01T01:00:00+00:00','2026-11-01T01:00:00+00:00','2026-11-01T01:10:00+00:00','{"outcome": "KEPT"}');
CREATE TABLE ac_schedule (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	cron VARCHAR NOT NULL, 
	zone VARCHAR NOT NULL, 
	spec JSON NOT NULL, 
	settings JSON NOT NULL, 
	created_at VARCHAR NOT NULL, 
	CONSTRAINT pk_ac_schedule PRIMARY KEY (id), 
	CONSTRAINT uq_ac_schedule UNIQUE (name)
);
INSERT INTO "ac_schedule" VALUES(1,'nightly','0 2 * * *','Europe/Berlin','{"model": "m", "target_speedup": 2.0}','{"output": "out"}','2026-11-01T00:00:00+00:00');
CREATE TABLE ac_study (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at VARCHAR NOT NULL, 
	finished_at VARCHAR, 
	spec JSON NOT NULL, 
	report JSON, driver VARCHAR, beat_at VARCHAR, 
	CONSTRAINT pk_ac_study PRIMARY KEY (id), 
	CONSTRAINT uq_ac_study UNIQUE (name)
);
INSERT INTO "ac_study" VALUES(1,'old','finished','2026-11-01T02:00:00+00:00','2026-11-01T02:10:00+00:00','{"model": "m", "target_speedup": 2.0}','{"met": true}',NULL,NULL);
CREATE TABLE ac_trial (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	genotype BLOB NOT NULL, sequences INTEGER DEFAULT '0' NOT NULL, loss DOUBLE, 
	CONSTRAINT pk_ac_trial PRIMARY KEY (id), 
	CONSTRAINT fk_ac_trial_study_id FOREIGN KEY(study_id) REFERENCES ac_study (id), 
	CONSTRAINT uq_ac_trial UNIQUE (study_id, "key")
);
INSERT INTO "ac_trial" VALUES(1,1,'ae0bc77027ebf0efcb6d7e84dd396379',X'000301',2,0.15);
CREATE INDEX ix_ac_trial_best ON ac_trial (study_id, sequences DESC, loss);
COMMIT;
