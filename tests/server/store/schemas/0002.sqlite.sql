BEGIN TRANSACTION;
CREATE TABLE access_tokens (
	sha256 VARCHAR(64) NOT NULL, 
	user INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	created_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	used_s DOUBLE, 
	revoked_s DOUBLE, 
	CONSTRAINT pk_access_tokens PRIMARY KEY (sha256), 
	CONSTRAINT fk_access_tokens_user FOREIGN KEY(user) REFERENCES users (number)
);
INSERT INTO "access_tokens" VALUES('sha256 ü',1,'name ü',1.25,1.25,1.25,1.25);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE aliases (
	number INTEGER NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	model INTEGER NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	at_s DOUBLE NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (number), 
	CONSTRAINT fk_aliases_model FOREIGN KEY(model) REFERENCES models (number)
);
INSERT INTO "aliases" VALUES(1,'name ü',1,'by ü',1.25);
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	at_s DOUBLE NOT NULL, 
	who VARCHAR(64) NOT NULL, 
	via VARCHAR(16) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject VARCHAR(128) NOT NULL, 
	"before" TEXT NOT NULL, 
	"after" TEXT NOT NULL, 
	chain VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (number)
);
INSERT INTO "audit" VALUES(1,1.25,'who ü','via ü','address ü','action ü','subject ü','before ü','after ü','chain ü');
CREATE TABLE certificates (
	sha256 VARCHAR(64) NOT NULL, 
	site INTEGER NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	der BLOB NOT NULL, 
	issued_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	authority INTEGER NOT NULL, 
	ended_s DOUBLE, 
	ended_why TEXT NOT NULL, 
	CONSTRAINT pk_certificates PRIMARY KEY (sha256), 
	CONSTRAINT fk_certificates_key FOREIGN KEY("key") REFERENCES keys (sha256), 
	CONSTRAINT fk_certificates_site FOREIGN KEY(site) REFERENCES sites (number)
);
INSERT INTO "certificates" VALUES('sha256 ü',1,'sha256 ü',X'00FF6B6579',1.25,1.25,1,1.25,'ended_why ü');
CREATE TABLE counters (
	site INTEGER NOT NULL, 
	run_id VARCHAR(20) NOT NULL, 
	up_bytes BIGINT NOT NULL, 
	down_bytes BIGINT NOT NULL, 
	calls BIGINT NOT NULL, 
	CONSTRAINT pk_counters PRIMARY KEY (site, run_id), 
	CONSTRAINT fk_counters_site FOREIGN KEY(site) REFERENCES sites (number)
);
INSERT INTO "counters" VALUES(1,'run_id ü',1,1,1);
CREATE TABLE events (
	number INTEGER NOT NULL, 
	site INTEGER NOT NULL, 
	at_s DOUBLE NOT NULL, 
	what VARCHAR(32) NOT NULL, 
	words TEXT NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (number), 
	CONSTRAINT fk_events_site FOREIGN KEY(site) REFERENCES sites (number)
);
INSERT INTO "events" VALUES(1,1,1.25,'what ü','words ü');
CREATE TABLE keys (
	sha256 VARCHAR(64) NOT NULL, 
	site INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	public BLOB NOT NULL, 
	since_s DOUBLE NOT NULL, 
	until_s DOUBLE, 
	node_id VARCHAR(20), 
	CONSTRAINT pk_keys PRIMARY KEY (sha256), 
	CONSTRAINT fk_keys_site FOREIGN KEY(site) REFERENCES sites (number)
);
INSERT INTO "keys" VALUES('sha256 ü',1,'kind ü',X'00FF6B6579',1.25,1.25,'node_id ü');
CREATE TABLE metrics (
	run INTEGER NOT NULL, 
	place VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	value DOUBLE NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (run, place, name, round), 
	CONSTRAINT fk_metrics_run FOREIGN KEY(run) REFERENCES runs (number)
);
INSERT INTO "metrics" VALUES(1,'place ü','name ü',1,1.25);
CREATE TABLE models (
	number INTEGER NOT NULL, 
	run INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	parameters BIGINT NOT NULL, 
	schema_digest VARCHAR(64) NOT NULL, 
	app_digest VARCHAR(64) NOT NULL, 
	created_s DOUBLE NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (number), 
	CONSTRAINT fk_models_run FOREIGN KEY(run) REFERENCES runs (number)
);
INSERT INTO "models" VALUES(1,1,1,'digest ü','path ü',1,1,'schema_digest ü','app_digest ü',1.25);
CREATE TABLE replies (
	number INTEGER NOT NULL, 
	run INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	phase VARCHAR(16) NOT NULL, 
	site VARCHAR(63) NOT NULL, 
	outcome VARCHAR(16) NOT NULL, 
	code VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	at_s DOUBLE NOT NULL, 
	waited_s DOUBLE, 
	size_bytes BIGINT NOT NULL, 
	num_examples INTEGER, 
	report TEXT NOT NULL, 
	CONSTRAINT pk_replies PRIMARY KEY (number), 
	CONSTRAINT fk_replies_run FOREIGN KEY(run) REFERENCES runs (number)
);
INSERT INTO "replies" VALUES(1,1,1,1,'phase ü','site ü','outcome ü','code ü','reason ü',1.25,1.25,1,1,'report ü');
CREATE TABLE requests (
	token VARCHAR(32) NOT NULL, 
	site INTEGER NOT NULL, 
	transport BLOB NOT NULL, 
	node BLOB NOT NULL, 
	identity BLOB NOT NULL, 
	fingerprint VARCHAR(24) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	asked_s DOUBLE NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	decided_s DOUBLE, 
	decided_by VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	certificate VARCHAR(64), 
	CONSTRAINT pk_requests PRIMARY KEY (token), 
	CONSTRAINT fk_requests_certificate FOREIGN KEY(certificate) REFERENCES certificates (sha256), 
	CONSTRAINT fk_requests_site FOREIGN KEY(site) REFERENCES sites (number), 
	CONSTRAINT fk_requests_token FOREIGN KEY(token) REFERENCES tokens (id)
);
INSERT INTO "requests" VALUES('id ü',1,X'00FF6B6579',X'00FF6B6579',X'00FF6B6579','fingerprint ü','version ü',1.25,'state ü',1.25,'decided_by ü','reason ü','sha256 ü');
CREATE TABLE revision (
	number INTEGER NOT NULL, 
	value INTEGER NOT NULL, 
	CONSTRAINT pk_revision PRIMARY KEY (number)
);
INSERT INTO "revision" VALUES(1,1);
CREATE TABLE rounds (
	run INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	opened_s DOUBLE NOT NULL, 
	closed_s DOUBLE, 
	committed_s DOUBLE, 
	online INTEGER NOT NULL, 
	cohort INTEGER NOT NULL, 
	wanted INTEGER NOT NULL, 
	quorum INTEGER NOT NULL, 
	survivors INTEGER NOT NULL, 
	because VARCHAR(64) NOT NULL, 
	received_bytes BIGINT NOT NULL, 
	fold_s DOUBLE, 
	model_digest VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_rounds PRIMARY KEY (run, number), 
	CONSTRAINT fk_rounds_run FOREIGN KEY(run) REFERENCES runs (number)
);
INSERT INTO "rounds" VALUES(1,1,'state ü',1,'stage ü',1.25,1.25,1.25,1,1,1,1,1,'because ü',1,1.25,'model_digest ü');
CREATE TABLE runs (
	number INTEGER NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	title VARCHAR(128) NOT NULL, 
	project VARCHAR(63) NOT NULL, 
	priority INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	config TEXT NOT NULL, 
	sites TEXT NOT NULL, 
	app_digest VARCHAR(64) NOT NULL, 
	submitted_by VARCHAR(64) NOT NULL, 
	submitted_s DOUBLE NOT NULL, 
	start_s DOUBLE NOT NULL, 
	changed_s DOUBLE NOT NULL, 
	finished_s DOUBLE, 
	flower_run VARCHAR(20), 
	lives INTEGER NOT NULL, 
	lines INTEGER NOT NULL, 
	rounds_wanted INTEGER NOT NULL, 
	rounds_done INTEGER NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (number), 
	CONSTRAINT uq_runs_name UNIQUE (name)
);
INSERT INTO "runs" VALUES(1,'name ü','title ü','project ü',1,'kind ü','state ü','reason ü','config ü','sites ü','app_digest ü','submitted_by ü',1.25,1.25,1.25,1.25,'flower_run ü',1,1,1,1);
CREATE TABLE sites (
	number INTEGER NOT NULL, 
	id VARCHAR(63) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	created_s DOUBLE NOT NULL, 
	changed_s DOUBLE NOT NULL, 
	seen_s DOUBLE, 
	report TEXT NOT NULL, 
	CONSTRAINT pk_sites PRIMARY KEY (number), 
	CONSTRAINT uq_sites_id UNIQUE (id)
);
INSERT INTO "sites" VALUES(1,'id ü','state ü','reason ü',1.25,1.25,1.25,'report ü');
CREATE TABLE tokens (
	id VARCHAR(32) NOT NULL, 
	site INTEGER NOT NULL, 
	certificate_sha256 VARCHAR(64) NOT NULL, 
	issued_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	new_keys BOOLEAN NOT NULL, 
	used_s DOUBLE, 
	withdrawn_s DOUBLE, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_tokens_site FOREIGN KEY(site) REFERENCES sites (number), 
	CONSTRAINT uq_tokens_certificate_sha256 UNIQUE (certificate_sha256)
);
INSERT INTO "tokens" VALUES('id ü',1,'certificate_sha256 ü',1.25,1.25,1,1.25,1.25);
CREATE TABLE users (
	number INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	projects TEXT NOT NULL, 
	subject VARCHAR(255), 
	created_s DOUBLE NOT NULL, 
	disabled_s DOUBLE, 
	CONSTRAINT pk_users PRIMARY KEY (number), 
	CONSTRAINT uq_users_name UNIQUE (name), 
	CONSTRAINT uq_users_subject UNIQUE (subject)
);
INSERT INTO "users" VALUES(1,'name ü','role ü','projects ü','subject ü',1.25,1.25);
CREATE TABLE uses (
	number INTEGER NOT NULL, 
	run INTEGER NOT NULL, 
	from_s DOUBLE NOT NULL, 
	to_s DOUBLE, 
	sites INTEGER NOT NULL, 
	CONSTRAINT pk_uses PRIMARY KEY (number), 
	CONSTRAINT fk_uses_run FOREIGN KEY(run) REFERENCES runs (number)
);
INSERT INTO "uses" VALUES(1,1,1.25,1.25,1);
CREATE TABLE web_sessions (
	sha256 VARCHAR(64) NOT NULL, 
	user INTEGER NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	created_s DOUBLE NOT NULL, 
	expires_s DOUBLE NOT NULL, 
	CONSTRAINT pk_web_sessions PRIMARY KEY (sha256), 
	CONSTRAINT fk_web_sessions_user FOREIGN KEY(user) REFERENCES users (number)
);
INSERT INTO "web_sessions" VALUES('sha256 ü',1,'csrf ü',1.25,1.25);
CREATE INDEX ix_events_site ON events (site);
CREATE INDEX ix_keys_site ON keys (site);
CREATE INDEX ix_tokens_site ON tokens (site);
CREATE INDEX ix_certificates_site ON certificates (site);
CREATE INDEX ix_requests_site ON requests (site);
CREATE INDEX ix_audit_action ON audit (action);
CREATE INDEX ix_audit_subject ON audit (subject);
CREATE INDEX ix_runs_project ON runs (project);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_access_tokens_user ON access_tokens (user);
CREATE INDEX ix_models_run ON models (run);
CREATE INDEX ix_replies_run_round ON replies (run, round);
CREATE INDEX ix_replies_site ON replies (site, number);
CREATE INDEX ix_uses_run ON uses (run);
CREATE INDEX ix_web_sessions_user ON web_sessions (user);
CREATE INDEX ix_aliases_name ON aliases (name);
COMMIT;
