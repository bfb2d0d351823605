//! Who is let in, and to what: over real sockets, as those who should not get through would try.

use std::path::Path;

use tagmill::Database;
use tagmill_client::{
    Admin, BatchBuilder, Credentials, Error, Gateway, GatewayOptions, NamedSamples, Piece,
    Qualities, Query, TagDef, Times, ValueType, Values, Writer, v1,
};
use tagmill_server::access::file::{NewToken, Tokens};
use tagmill_server::access::{Role, now};
use tagmill_server::lifecycle::{self, ServeOptions, Server, TokenFile};
use tagmill_server::tls::TlsFiles;
use tonic::Code;

const START_NS: i64 = 1_700_000_000_000_000_000;

/// A server that asks who calls, and a token for each.
struct Guarded {
    directory: tempfile::TempDir,
    server: Server,
}

impl Guarded {
    async fn serve() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.toml");
        Tokens::create(&path, token("first", &[Role::Admin], &[])).unwrap();
        let access = Some(TokenFile { path, must_exist: true });
        let database =
            Database::open(directory.path().join("data"), tagmill::Options::default()).unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let options = ServeOptions { listen, access, ..ServeOptions::default() };
        let server = Server::start(database, options).await.unwrap();
        Self { directory, server }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("access.toml")
    }

    /// A new token, known within a second.
    fn admit(&self, name: &str, roles: &[Role], scope: &[&str]) -> Credentials {
        let text = Tokens::create(&self.path(), token(name, roles, scope)).unwrap();
        Credentials::of_token(text)
    }

    fn address(&self) -> String {
        self.server.address().to_string()
    }

    async fn write(&self, as_who: &Credentials, tag: &str, key: &str) -> Result<u64, Error> {
        let mut writer = Writer::connect_as(&self.address(), as_who).await.unwrap();
        let mut samples = NamedSamples::default();
        let values = Values::F64(&[1.0]);
        samples.column(tag, Times::Each(&[START_NS]), values, Qualities::Good).unwrap();
        writer.write(key, samples).await.map(|written| written.accepted_samples)
    }

    async fn ask(&self, as_who: &Credentials, sql: &str) -> Result<u64, Error> {
        let mut query = Query::connect_as(&self.address(), as_who).await.unwrap();
        let mut answer = query.execute(sql, std::collections::HashMap::new()).await?;
        loop {
            match answer.next().await? {
                Some(Piece::Finished { rows, .. }) => return Ok(rows),
                Some(_) => {}
                None => panic!("the answer broke off"),
            }
        }
    }
}

fn token(name: &str, roles: &[Role], scope: &[&str]) -> NewToken {
    let scope = scope.iter().map(ToString::to_string).collect();
    let (name, roles) = (name.to_owned(), roles.to_vec());
    let (certificate, new_tags) = (None, None);
    NewToken { name, roles, scope, certificate, new_tags, expires: now() + 3_600 }
}

async fn until_known() {
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
}

fn code(result: Result<impl Sized, Error>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(Error::Server { code, .. }) => code,
        Err(other) => panic!("not from the server: {other}"),
    }
}

#[test]
fn a_role_allows_what_it_says_and_nothing_else() {
    on_runtime(async {
        let guarded = Guarded::serve().await;
        let [reader, writer, operator, admin] =
            [Role::Reader, Role::Writer, Role::Operator, Role::Admin]
                .map(|role| guarded.admit(role.name(), &[role], &[]));
        let (nobody, wrong) = (Credentials::default(), Credentials::of_token("tgm_00000000_x"));
        until_known().await;
        guarded.write(&admin, "a/b", "").await.unwrap();
        for (who, write, ask, seal, delete) in [
            (
                &reader,
                Code::PermissionDenied,
                Code::Ok,
                Code::PermissionDenied,
                Code::PermissionDenied,
            ),
            (
                &writer,
                Code::Ok,
                Code::PermissionDenied,
                Code::PermissionDenied,
                Code::PermissionDenied,
            ),
            (
                &operator,
                Code::PermissionDenied,
                Code::PermissionDenied,
                Code::Ok,
                Code::PermissionDenied,
            ),
            (&admin, Code::Ok, Code::Ok, Code::Ok, Code::Ok),
            (
                &nobody,
                Code::Unauthenticated,
                Code::Unauthenticated,
                Code::Unauthenticated,
                Code::Unauthenticated,
            ),
            (
                &wrong,
                Code::Unauthenticated,
                Code::Unauthenticated,
                Code::Unauthenticated,
                Code::Unauthenticated,
            ),
        ] {
            assert_eq!(code(guarded.write(who, "a/b", "").await), write, "{who:?} writes");
            assert_eq!(code(guarded.ask(who, "SELECT 1").await), ask, "{who:?} asks");
            let mut care = Admin::connect_as(&guarded.address(), who).await.unwrap();
            assert_eq!(code(care.seal().await), seal, "{who:?} seals");
            let star = v1::DeleteRangeRequest {
                tags: vec!["*".to_owned()],
                dry_run: true,
                ..v1::DeleteRangeRequest::default()
            };
            assert_eq!(code(care.delete_range(star).await), delete, "{who:?} deletes");
        }
        guarded.server.shutdown().await.unwrap();
    });
}

#[test]
fn a_scope_bounds_writes_reads_and_care() {
    on_runtime(async {
        let guarded = Guarded::serve().await;
        let roles = [Role::Reader, Role::Writer, Role::Admin];
        let line = guarded.admit("line", &roles, &["plant/line"]);
        let all = guarded.admit("all", &roles, &[]);
        until_known().await;
        guarded.write(&all, "plant/other", "").await.unwrap();
        guarded.write(&all, "plant/line/x", "").await.unwrap();
        assert_eq!(code(guarded.write(&line, "plant/line/y", "").await), Code::Ok);
        for tag in ["plant/other", "plant/linen", "plant", "else"] {
            assert_eq!(code(guarded.write(&line, tag, "").await), Code::PermissionDenied, "{tag}");
        }
        assert_eq!(guarded.ask(&line, "SELECT * FROM samples").await.unwrap(), 2);
        assert_eq!(guarded.ask(&line, "SELECT * FROM tags").await.unwrap(), 2);
        assert_eq!(guarded.ask(&all, "SELECT * FROM tags").await.unwrap(), 3);
        // Of a tag outside it hears what it hears of one that is not there.
        let mut care = Admin::connect_as(&guarded.address(), &line).await.unwrap();
        let mut said = Vec::new();
        for tag in ["plant/other", "plant/nowhere"] {
            let error = care.delete_tag(tag).await.unwrap_err().to_string();
            said.push(error.replace(tag, "it"));
        }
        assert_eq!(said[0], said[1]);
        let moved = care.rename_tag("plant/line/x", "plant/other2").await;
        assert_eq!(code(moved), Code::PermissionDenied);
        let star = v1::DeleteRangeRequest {
            tags: vec!["*".to_owned()],
            dry_run: true,
            ..v1::DeleteRangeRequest::default()
        };
        assert_eq!(care.delete_range(star).await.unwrap().tags, 2);
        let mut writer = Writer::connect_as(&guarded.address(), &line).await.unwrap();
        let tags = ["plant/line/z", "plant/other"].map(|name| TagDef::new(name, ValueType::F64));
        let defined = writer.define(&tags).await.unwrap();
        assert_eq!((defined.defined, defined.rejects.len()), (1, 1));
        assert!(defined.rejects[0].detail.contains("outside of the scope"), "{defined:?}");
        guarded.server.shutdown().await.unwrap();
    });
}

#[test]
fn a_gateway_with_a_scope_has_its_own_name_and_its_own_aliases() {
    on_runtime(async {
        let guarded = Guarded::serve().await;
        let all = guarded.admit("all", &[Role::Writer], &[]);
        let line = guarded.admit("line", &[Role::Writer, Role::Reader], &["plant/line"]);
        until_known().await;
        let open = |gateway: &'static str, credentials: &Credentials| {
            let credentials = credentials.clone();
            let address = guarded.address();
            async move {
                let options = GatewayOptions { credentials, ..GatewayOptions::new(gateway) };
                Gateway::connect(&address, options).await
            }
        };
        // Somebody who may has defined an alias outside of the scope, under a name that is the token's.
        let before = open("line/plc", &all).await.unwrap();
        let other = before.define(&[TagDef::new("plant/other", ValueType::F64)]).await.unwrap();
        before.close().await.unwrap();
        // For the one with the scope it is no alias: what comes under it is refused.
        let plc = open("line/plc", &line).await.unwrap();
        let mut batch = BatchBuilder::new();
        batch.f64(other[0], &[START_NS], &[666.0]).unwrap();
        plc.send(batch).await.unwrap();
        let summary = plc.flush().await.unwrap();
        assert_eq!((summary.accepted_samples, summary.rejected_samples), (0, 1), "{summary:?}");
        plc.close().await.unwrap();
        assert_eq!(code(open("all", &line).await), Code::PermissionDenied, "a foreign name");
        assert_eq!(code(open("liner", &line).await), Code::PermissionDenied, "a longer name");
        let gateway = open("line", &line).await.unwrap();
        let outside = gateway.define(&[TagDef::new("plant/other", ValueType::F64)]).await;
        assert!(outside.unwrap_err().to_string().contains("outside of the scope"));
        let aliases = gateway.define(&[TagDef::new("plant/line/x", ValueType::F64)]).await.unwrap();
        let mut batch = BatchBuilder::new();
        batch.f64(aliases[0], &[START_NS, START_NS + 1], &[1.0, 2.0]).unwrap();
        gateway.send(batch).await.unwrap();
        gateway.flush().await.unwrap();
        assert_eq!(guarded.ask(&line, "SELECT * FROM samples").await.unwrap(), 2);
        // Revoked, it is cut off at its next message.
        Tokens::revoke(&guarded.path(), "line").unwrap();
        until_known().await;
        let mut batch = BatchBuilder::new();
        batch.f64(aliases[0], &[START_NS + 5], &[3.0]).unwrap();
        let sent = async {
            gateway.send(batch).await?;
            gateway.flush().await
        };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), sent).await;
        assert!(!matches!(ended, Ok(Ok(_))), "a revoked gateway went on");
        assert_eq!(
            guarded.ask(&guarded.admit_now().await, "SELECT * FROM samples").await.unwrap(),
            2
        );
        guarded.server.shutdown().await.unwrap();
    });
}

impl Guarded {
    async fn admit_now(&self) -> Credentials {
        let credentials = self.admit("late", &[Role::Reader], &[]);
        until_known().await;
        credentials
    }
}

#[test]
fn nobody_uses_up_the_keys_of_others() {
    on_runtime(async {
        let guarded = Guarded::serve().await;
        let [a, b] = ["a", "b"].map(|name| guarded.admit(name, &[Role::Writer], &[]));
        until_known().await;
        assert_eq!(guarded.write(&a, "x", "key").await.unwrap(), 1);
        let again = guarded.write(&a, "x", "key").await.unwrap();
        let other = guarded.write(&b, "y", "key").await.unwrap();
        assert_eq!((again, other), (0, 1), "a key is its owner's alone");
        let reader = guarded.admit_now().await;
        assert_eq!(guarded.ask(&reader, "SELECT * FROM samples").await.unwrap(), 2);
        guarded.server.shutdown().await.unwrap();
    });
}

#[test]
fn a_server_that_others_can_reach_needs_tokens_and_a_certificate() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let start = |options: ServeOptions| {
            let database =
                Database::open(directory.path().join("data"), tagmill::Options::default());
            Server::start(database.unwrap(), options)
        };
        let listen = ([0, 0, 0, 0], 0).into();
        let local = ([127, 0, 0, 1], 0).into();
        let tokens = directory.path().join("access.toml");
        Tokens::create(&tokens, token("t", &[Role::Reader], &[])).unwrap();
        let open = ServeOptions { listen, ..ServeOptions::default() };
        let refused = start(open.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("no token"), "{refused}");
        let access = Some(TokenFile { path: tokens, must_exist: true });
        let refused = start(ServeOptions { access, ..open.clone() }).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("no certificate"), "{refused}");
        let postgres =
            ServeOptions { listen: local, postgres: Some(listen), ..ServeOptions::default() };
        assert!(matches!(start(postgres).await, Err(lifecycle::Error::Exposed { .. })));
        // A certificate that cannot be used is no reason to speak in clear.
        for text in
            ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let cert = write(directory.path(), "cert.pem", text);
            let key = write(directory.path(), "key.pem", text);
            let tls = Some(TlsFiles { cert, key, client_ca: None, client_crl: None });
            let options = ServeOptions { listen: local, tls, ..ServeOptions::default() };
            let refused = start(options).await;
            assert!(matches!(refused, Err(lifecycle::Error::Safety(_))), "{text:?}: {refused:?}");
        }
        let access = Some(TokenFile { path: directory.path().join("nothing"), must_exist: true });
        let options = ServeOptions { listen: local, access, ..ServeOptions::default() };
        assert!(matches!(start(options).await, Err(lifecycle::Error::Safety(_))));
        start(ServeOptions { insecure_no_auth: true, ..open })
            .await
            .unwrap()
            .shutdown()
            .await
            .unwrap();
    });
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}
