BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
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
CREATE INDEX ix_events_site ON events (site);
CREATE INDEX ix_keys_site ON keys (site);
CREATE INDEX ix_tokens_site ON tokens (site);
CREATE INDEX ix_certificates_site ON certificates (site);
CREATE INDEX ix_requests_site ON requests (site);
COMMIT;
