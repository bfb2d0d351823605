//! How a server is told to run: by the command line, by the environment, by a file; in this order, key by key.
//!
//! Contract: the keys of the file are the words of the command line with `_` for `-`, those of the environment the same in
//! capitals after `TAGMILL_`. A key or a value that is not understood is refused, wherever it stands; a variable of that
//! prefix too, but for those of others ([`OTHERS`], and what Kubernetes says of a service of that name).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use tagmill_storage::RetentionClass;

use super::failure::{Failure, Result};
use super::serve::retention;
use super::token;
use crate::http::lines::{DEFAULT, Template};
use crate::lifecycle::{LISTEN, ServeOptions, TokenFile};
use crate::tls::{Tls, TlsFiles};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill config check /etc/tagmill.toml
  tagmill config check                       (what the environment says)

A file for 'tagmill serve --config /etc/tagmill.toml':

  data = '/var/lib/tagmill'
  listen = '0.0.0.0:7410'
  postgres = '0.0.0.0:7411'
  http = 'off'
  tls_cert = '/etc/tagmill/server.pem'
  tls_key = '/etc/tagmill/server.key'
  retention = ['2y', 'vibration=30d,1h=forever']";

/// Looks at a configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Says what a server would do with it, or what is wrong.
    #[command(after_help = EXAMPLES)]
    Check {
        /// The file; without it the environment alone.
        file: Option<PathBuf>,
    },
}

/// What may be said of a server.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of the database; made if there is none.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen; 127.0.0.1:7410 unless told otherwise.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where clients of PostgreSQL are served: psql, Grafana, JDBC, psycopg; 'off' for nowhere. By default the port after
    /// that of --listen: 127.0.0.1:7411.
    #[arg(long, value_name = "ADDR")]
    pub postgres: Option<Listening>,
    /// Where HTTP is served: SQL, line protocol, figures; 'off' for nowhere. By default two ports after that of --listen:
    /// 127.0.0.1:7412.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<Listening>,
    /// How names of tags are made of lines of Influx line protocol: {measurement}, {field}, {tags}, {tag:KEY}; by default
    /// {measurement}/{tags}/{field}.
    #[arg(long, value_name = "TEMPLATE")]
    pub line_template: Option<String>,
    /// File of the tokens of those who are let in; by default access.toml in the directory of the database.
    #[arg(long, value_name = "FILE")]
    pub access: Option<PathBuf>,
    /// The server's certificate, in PEM: with it nobody is served in clear.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities, in PEM: gRPC clients must show a certificate that one of them has signed.
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities, in PEM: what they list is refused. Like the other files it is read again when
    /// it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_client_crl: Option<PathBuf>,
    /// Folder below which 'tagmill backup --connect' may write; without it such requests are refused.
    #[arg(long, value_name = "DIR")]
    pub backups: Option<PathBuf>,
    /// Folder of the audit log, who did what; by default that of the database. 'off' for none.
    #[arg(long, value_name = "DIR")]
    pub audit: Option<PathBuf>,
    /// How often the server writes its own figures as tags below tagmill/: 10s unless told otherwise; 'off' for never.
    #[arg(long, value_name = "TIME")]
    pub own_figures: Option<Every>,
    /// Memory that all running statements share, such as 2GiB; by default a quarter of what the machine has. One of them
    /// has half of it.
    #[arg(long, value_name = "SIZE")]
    pub query_memory: Option<Size>,
    /// How the log is written to standard error: 'text', or 'json', an object a line.
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<LogForm>,
    /// Allow an address that other machines can reach without tokens or without a certificate.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub insecure_no_auth: Option<bool>,
    /// How long raw samples are kept: 400d for all tags, NAME=90d for those with retention=NAME; d, w, y or 'forever'. After
    /// a comma, rollups of 1m, 15m, 1h or 1d that are kept longer: 90d,1m=2y,1h=forever. May be given several times;
    /// docs/retention.md.
    #[arg(long, value_name = "[NAME=]TIME[,TIER=TIME]")]
    pub retention: Option<Vec<Retention>>,
}

/// Where to listen, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listening(pub Option<SocketAddr>);

impl FromStr for Listening {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| "an address is like 127.0.0.1:7411, or 'off'")?;
        Ok(Self(Some(address)))
    }
}

impl TryFrom<String> for Listening {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// How long a class of tags is kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Retention(pub RetentionClass);

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        retention(text).map(Self)
    }
}

impl TryFrom<String> for Retention {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Keys whose values are no texts in a file.
const LISTS: [&str; 1] = ["retention"];
const SWITCHES: [&str; 1] = ["insecure_no_auth"];
const TEXTS: [&str; 15] = [
    "data",
    "listen",
    "postgres",
    "http",
    "line_template",
    "access",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_crl",
    "backups",
    "audit",
    "own_figures",
    "query_memory",
    "log_format",
];

/// What begins the names of our variables.
const PREFIX: &str = "TAGMILL_";
/// Variables that say nothing of how a server runs: of the log, of clients, of dashboards, of tests.
const OTHERS: [&str; 12] = [
    "LOG",
    "TOKEN",
    "CA",
    "CERT",
    "KEY",
    "HOST",
    "SEED",
    "CASES",
    "TRACE",
    "SLT",
    "PLANTED",
    "FAULTS_NAMESPACE",
];

/// Whether a variable is known: one that is not was meant to be one, mostly.
fn is_known(name: &str, value: &str) -> bool {
    let Some(name) = name.strip_prefix(PREFIX) else { return true };
    let mut keys = TEXTS.into_iter().chain(SWITCHES).chain(LISTS);
    let is_key = keys.any(|key| key.to_uppercase() == name);
    // Kubernetes tells each container of each service: TAGMILL_SERVICE_HOST, TAGMILL_GRPC_PORT=tcp://.. and so on.
    let is_service = ["SERVICE_HOST", "SERVICE_PORT"].iter().any(|word| name.contains(word));
    let is_port = name == "PORT" || name.starts_with("PORT_") || name.ends_with("_PORT");
    let is_port = (is_port && value.contains("://")) || name.contains("PORT_");
    is_key || is_service || is_port || OTHERS.contains(&name)
}

/// A switch as people write it.
fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "on" | "yes" => Some(true),
        "0" | "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

impl Config {
    /// What the environment of this process says.
    ///
    /// # Errors
    /// Which variable is wrong, or not known.
    pub fn of_process() -> Result<Self> {
        for (name, value) in std::env::vars_os() {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            if !is_known(&name, &value) {
                return Err(Failure::new(
                    "there is no such variable: docs/operations.md lists them",
                )
                .within(name));
            }
        }
        Self::of_environment(|name| std::env::var(name).ok())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path) -> Result<Self> {
        let within = |failure: Failure| failure.within(path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|error| within(Failure::new(error.to_string())))?;
        toml::from_str(&text).map_err(|error| within(Failure::new(error.to_string().trim_end())))
    }

    /// What the environment says. A list has spaces between its parts.
    ///
    /// # Errors
    /// Which variable is wrong.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut config = Self::default();
        for name in TEXTS.into_iter().chain(SWITCHES).chain(LISTS) {
            let variable_name = format!("{PREFIX}{}", name.to_uppercase());
            let Some(value) = variable(&variable_name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let value = if LISTS.contains(&name) {
                toml::Value::Array(value.split_whitespace().map(Into::into).collect())
            } else if SWITCHES.contains(&name) {
                let wrong = || Failure::new(format!("{value:?} is neither 'true' nor 'false'"));
                let is_on = switch(&value).ok_or_else(|| wrong().within(&variable_name))?;
                toml::Value::Boolean(is_on)
            } else {
                toml::Value::String(value)
            };
            let table = toml::Table::from_iter([(name.to_owned(), value)]);
            let one: Self = table.try_into().map_err(|error: toml::de::Error| {
                Failure::new(error.message().to_owned()).within(variable_name)
            })?;
            config = config.or(one);
        }
        Ok(config)
    }

    /// What this says, and where it says nothing what another does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            data: self.data.or(other.data),
            listen: self.listen.or(other.listen),
            postgres: self.postgres.or(other.postgres),
            http: self.http.or(other.http),
            line_template: self.line_template.or(other.line_template),
            access: self.access.or(other.access),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            tls_client_crl: self.tls_client_crl.or(other.tls_client_crl),
            backups: self.backups.or(other.backups),
            audit: self.audit.or(other.audit),
            own_figures: self.own_figures.or(other.own_figures),
            query_memory: self.query_memory.or(other.query_memory),
            log_format: self.log_format.or(other.log_format),
            insecure_no_auth: self.insecure_no_auth.or(other.insecure_no_auth),
            retention: self.retention.or(other.retention),
        }
    }

    /// What a server is to be.
    ///
    /// # Errors
    /// If the directory is not said, or a certificate is without its key.
    pub fn options(self) -> Result<Wanted> {
        let data = self.data.ok_or_else(|| {
            Failure::new("which database? its directory is not said")
                .next("--data DIR, or data = '..' in the file")
        })?;
        let tls = match (self.tls_cert, self.tls_key, self.tls_client_ca) {
            (Some(cert), Some(key), client_ca) => {
                Some(TlsFiles { cert, key, client_ca, client_crl: self.tls_client_crl })
            }
            (None, None, None) if self.tls_client_crl.is_none() => None,
            _ => {
                return Err(Failure::new(
                    "tls_cert and tls_key go together, and tls_client_ca and tls_client_crl with them",
                ));
            }
        };
        let listen = self.listen.unwrap_or(LISTEN);
        let access = match self.access {
            Some(path) => TokenFile { path, must_exist: true },
            None => TokenFile { path: data.join(token::FILE), must_exist: false },
        };
        let options = ServeOptions {
            listen,
            postgres: self.postgres.map_or_else(|| Some(beside(listen, 1)), |asked| asked.0),
            http: self.http.map_or_else(|| Some(beside(listen, 2)), |asked| asked.0),
            line_template: self.line_template.unwrap_or_else(|| DEFAULT.to_owned()),
            insecure_no_auth: self.insecure_no_auth.unwrap_or_default(),
            backups: self.backups,
            audit: match self.audit {
                None => Some(data.clone()),
                Some(folder) => Some(folder).filter(|folder| folder != Path::new("off")),
            },
            own_figures: self.own_figures.unwrap_or(OWN_FIGURES).0,
            access: Some(access),
            tls,
            ..ServeOptions::default()
        };
        let retention = self.retention.unwrap_or_default();
        Ok(Wanted {
            data,
            options,
            retention: retention.into_iter().map(|class| class.0).collect(),
            query_memory_bytes: self.query_memory.map_or_else(quarter_of_memory, |size| size.0),
            log: self.log_format.unwrap_or_default(),
        })
    }
}

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Directory of the database.
    pub data: PathBuf,
    /// How it serves.
    pub options: ServeOptions,
    /// How long it keeps what.
    pub retention: Vec<RetentionClass>,
    /// Memory of all statements.
    pub query_memory_bytes: usize,
    /// How it writes its log.
    pub log: LogForm,
}

/// A time between two things, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Every(pub Option<Duration>);

const OWN_FIGURES: Every = Every(Some(Duration::from_secs(10)));

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = || "a time is like 10s or 5m, from 1s to 60m, or 'off'".to_owned();
        let number = text.trim_end_matches(['s', 'm']);
        let unit = match &text[number.len()..] {
            "s" => 1,
            "m" => 60,
            _ => return Err(wrong()),
        };
        let seconds = number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        let seconds = seconds.filter(|seconds| (1..=3_600).contains(seconds)).ok_or_else(wrong)?;
        Ok(Self(Some(Duration::from_secs(seconds))))
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "a size is like 512MiB or 2GiB, from 16MiB".to_owned();
        let (number, shift) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
            (Some(number), _) => (number, 30),
            (None, Some(number)) => (number, 20),
            (None, None) => return Err(wrong()),
        };
        let bytes = number.trim().parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift));
        bytes.filter(|&bytes| bytes >= QUERY_MEMORY_MIN).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// For programs: an object a line.
    Json,
}

/// Least memory of all statements.
const QUERY_MEMORY_MIN: usize = 16 << 20;
/// Memory of all statements where the system does not say how much it has.
const QUERY_MEMORY: usize = 1 << 30;

/// A quarter of the machine's memory.
fn quarter_of_memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.map_or(QUERY_MEMORY, |kib| (kib << 10) / 4).max(QUERY_MEMORY_MIN)
}

/// The address so many ports after this one; port 0, any that is free, stays so.
fn beside(address: SocketAddr, after: u16) -> SocketAddr {
    let port = if address.port() == 0 { 0 } else { address.port().saturating_add(after) };
    SocketAddr::new(address.ip(), port)
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the configuration.
pub fn run(args: Args) -> Result<()> {
    let Action::Check { file } = args.action;
    let mut config = Config::of_process()?;
    if let Some(file) = &file {
        config = config.or(Config::read(file)?);
    }
    let Wanted { data, options, retention, query_memory_bytes, .. } = config.options()?;
    crate::lifecycle::check_exposure(&options).map_err(|error| Failure::new(error.to_string()))?;
    Template::parse(&options.line_template).map_err(Failure::new)?;
    if let Some(files) = options.tls.clone() {
        Tls::new(files).map_err(Failure::new)?;
    }
    let shown = |address: Option<SocketAddr>| {
        address.map_or_else(|| "off".to_owned(), |address| address.to_string())
    };
    println!("data       {}", data.display());
    println!("gRPC       {}", options.listen);
    println!("PostgreSQL {}", shown(options.postgres));
    println!("HTTP       {}", shown(options.http));
    println!("TLS        {}", if options.tls.is_some() { "on" } else { "off" });
    let tokens = options.access.filter(|file| file.must_exist || file.path.exists());
    match tokens {
        Some(file) => println!("tokens     {}", file.path.display()),
        None => println!("tokens     none: nobody is asked"),
    }
    let folder = options.audit.as_ref().map_or("off".into(), |folder| folder.to_string_lossy());
    println!("audit      {folder}");
    let every = options.own_figures.map_or("off".to_owned(), |every| format!("{every:?}"));
    println!("figures    {every}");
    println!("queries    {} MiB", query_memory_bytes >> 20);
    if retention.is_empty() {
        println!("retention  forever");
    }
    for class in retention {
        let name = if class.name.is_empty() { "all others" } else { &class.name };
        println!("retention  {name}: {}", kept(class.raw));
        for (tier, time) in class.tiers {
            println!("           rollups of {tier}: {}", kept(time));
        }
    }
    Ok(())
}

fn kept(time: Option<Duration>) -> String {
    time.map_or("forever".to_owned(), |time| format!("{} days", time.as_secs() / 86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tagmill.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn the_command_line_goes_before_the_environment_before_the_file() {
        let file =
            of("data = 'a'\nlisten = '127.0.0.1:1'\nhttp = 'off'\nretention = ['1d', 'x=2d']")
                .unwrap();
        let environment = Config::of_environment(|name| match name {
            "TAGMILL_LISTEN" => Some("127.0.0.1:2".to_owned()),
            "TAGMILL_DATA" => Some("b".to_owned()),
            "TAGMILL_RETENTION" => Some("3d y=4d z=5d".to_owned()),
            "TAGMILL_INSECURE_NO_AUTH" => Some("true".to_owned()),
            _ => None,
        });
        let words = Config { data: Some("c".into()), ..Config::default() };
        let wanted = words.or(environment.unwrap()).or(file).options().unwrap();
        let Wanted { data, options, retention, .. } = wanted;
        assert_eq!((data, options.listen.port()), (PathBuf::from("c"), 2));
        assert_eq!((options.http, options.postgres.map(|a| a.port())), (None, Some(3)));
        assert_eq!((retention.len(), options.insecure_no_auth), (3, true));
        assert!(!options.access.unwrap().must_exist);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "data = 'a'\nlisen = '127.0.0.1:1'",
            "listen = 'here'",
            "postgres = 'on'",
            "retention = '2y'",
            "own_figures = '0s'",
            "own_figures = '10'",
            "query_memory = '2'",
            "query_memory = '1KiB'",
            "log_format = 'xml'",
            "retention = ['2 fortnights']",
            "insecure_no_auth = 'yes'",
            "data = ",
            "[tls]\ncert = 'x'",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
        for (name, value) in [
            ("TAGMILL_LISTEN", "here"),
            ("TAGMILL_RETENTION", "2y x"),
            ("TAGMILL_HTTP", "on"),
            ("TAGMILL_INSECURE_NO_AUTH", "maybe"),
        ] {
            let found = Config::of_environment(|asked| (asked == name).then(|| value.to_owned()));
            assert!(found.unwrap_err().to_string().contains(name), "{name}");
        }
        assert!(of("data = 'a'\ntls_cert = 'x'").unwrap().options().is_err());
        assert!(of("").unwrap().options().is_err());
    }

    #[test]
    fn a_variable_is_known_or_of_others() {
        for (name, value, expected) in [
            ("PATH", "", true),
            ("TAGMILL_TLS_CERT", "x", true),
            ("TAGMILL_LOG", "x", true),
            ("TAGMILL_TOKEN", "x", true),
            ("TAGMILL_TLSCERT", "x", false),
            ("TAGMILL_LISEN", "", false),
            ("TAGMILL_HTTP_PORT", "8080", false),
            ("TAGMILL_PORT", "7410", false),
            ("TAGMILL_PORT", "tcp://10.0.0.1:7410", true),
            ("TAGMILL_PORT_7410_TCP_ADDR", "10.0.0.1", true),
            ("TAGMILL_SERVICE_HOST", "10.0.0.1", true),
            ("TAGMILL_SERVICE_PORT_GRPC", "7410", true),
            ("TAGMILL_HTTP_SERVICE_PORT", "7412", true),
        ] {
            assert_eq!(is_known(name, value), expected, "{name}={value}");
        }
        let off = Config::of_environment(|name| {
            (name == "TAGMILL_INSECURE_NO_AUTH").then(|| "off".to_owned())
        });
        assert_eq!(off.unwrap().insecure_no_auth, Some(false));
    }

    #[test]
    fn every_key_has_a_variable() {
        let all = TEXTS.len() + SWITCHES.len() + LISTS.len();
        let fields = format!("{:?}", Config::default()).matches(": None").count();
        assert_eq!(all, fields);
    }
}
