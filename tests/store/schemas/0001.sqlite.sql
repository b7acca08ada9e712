BEGIN TRANSACTION;
CREATE TABLE ac_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT ac_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "ac_alembic_version" VALUES('0001');
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
CREATE TABLE ac_measurement (
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
	CONSTRAINT pk_ac_measurement PRIMARY KEY (id), 
	CONSTRAINT fk_ac_measurement_trial_id FOREIGN KEY(trial_id) REFERENCES ac_trial (id), 
	CONSTRAINT uq_ac_measurement UNIQUE (trial_id, split, draw, first, sequences), 
	CONSTRAINT ck_ac_measurement_outcome CHECK ((kl IS NULL) = (error IS NOT NULL))
);
INSERT INTO "ac_measurement" VALUES(1,1,'search',0,0,2,X'9A9999999999B93F9A9999999999C93F',X'0000000000000440CDCCCCCCCCCC0440',127,NULL,0.25,'2026-11-01T02:05:00+00:00');
CREATE TABLE ac_study (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at VARCHAR NOT NULL, 
	finished_at VARCHAR, 
	spec JSON NOT NULL, 
	report JSON, 
	CONSTRAINT pk_ac_study PRIMARY KEY (id), 
	CONSTRAINT uq_ac_study UNIQUE (name)
);
INSERT INTO "ac_study" VALUES(1,'old','finished','2026-11-01T02:00:00+00:00','2026-11-01T02:10:00+00:00','{"model": "m", "target_speedup": 2.0}','{"met": true}');
CREATE TABLE ac_trial (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	genotype BLOB NOT NULL, 
	CONSTRAINT pk_ac_trial PRIMARY KEY (id), 
	CONSTRAINT fk_ac_trial_study_id FOREIGN KEY(study_id) REFERENCES ac_study (id), 
	CONSTRAINT uq_ac_trial UNIQUE (study_id, "key")
);
INSERT INTO "ac_trial" VALUES(1,1,'ae0bc77027ebf0efcb6d7e84dd396379',X'000301');
COMMIT;
