//! `tagmill token`: who is let in.
//!
//! It changes the file beside the database; a server that runs reads it again by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

use super::failure::{Failure, Result};
use super::serve::time_kept;
use crate::access::file::{NewToken, Tokens};
use crate::access::{Role, now};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill token create grafana --role reader --data plant
  tagmill token create line-3 --role writer --scope plant/line3 --expires 90d --data plant
  tagmill token create line-4 --role writer --certificate urn:tagmill:gateway:line-4 --data plant
  tagmill token list --data plant
  tagmill token revoke grafana --data plant

A token is shown once, when it is made; kept is a digest. gRPC clients send it as 'authorization: Bearer TOKEN', clients
of PostgreSQL log in with its name as the user and the token as the password. As soon as there is one, 'tagmill serve'
asks everybody for theirs.";

/// Name of the file of tokens in the directory of the database.
pub const FILE: &str = "access.toml";

/// Makes, lists and revokes tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes a token and shows it, once.
    #[command(after_help = EXAMPLES)]
    Create {
        /// What people call it, and the user name of PostgreSQL clients.
        name: String,
        /// What it may do: several times for several.
        #[arg(long, required = true, value_enum)]
        role: Vec<Role>,
        /// The tags at and below this path alone: several times for several; without it all.
        #[arg(long, value_name = "PATH")]
        scope: Vec<String>,
        /// A name in the certificate of a gateway (a URI or DNS name, as urn:tagmill:gateway:line-3): whoever shows such a
        /// certificate is let in without the token.
        #[arg(long, value_name = "NAME")]
        certificate: Option<String>,
        /// How many tags it may make known in a day; 10,000 unless told otherwise.
        #[arg(long, value_name = "COUNT")]
        new_tags: Option<u64>,
        /// How long it is good for: 90d, 12w, 1y.
        #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
        expires: Duration,
        #[command(flatten)]
        place: Place,
    },
    /// Lists the tokens, without their secrets.
    #[command(after_help = EXAMPLES)]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revokes a token, by its name or id.
    #[command(after_help = EXAMPLES)]
    Revoke {
        /// Its name or id.
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the tokens are.
#[derive(Debug, clap::Args)]
struct Place {
    /// Directory of the database, whose file access.toml it is.
    #[arg(long, value_name = "DIR", required_unless_present = "access")]
    data: Option<PathBuf>,
    /// Another file of tokens, as 'tagmill serve --access' names it.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    access: Option<PathBuf>,
}

impl Place {
    fn path(&self) -> PathBuf {
        match (&self.access, &self.data) {
            (Some(file), _) => file.clone(),
            (None, data) => data.as_deref().unwrap_or(Path::new(".")).join(FILE),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the file cannot be read or written, or there is no such token.
pub fn run(args: Args) -> Result<()> {
    match args.action {
        Action::Create { name, role, scope, certificate, new_tags, expires, place } => {
            let lifetime = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
            let expires = now().saturating_add(lifetime);
            let roles = role;
            let new = NewToken { name, roles, scope, certificate, new_tags, expires };
            let text = Tokens::create(&place.path(), new).map_err(Failure::new)?;
            println!("{text}");
            eprintln!("keep it: it is not shown again");
            Ok(())
        }
        Action::List { place } => {
            let tokens = Tokens::read(&place.path()).map_err(|why| {
                Failure::new(why).next("make a token with 'tagmill token create'")
            })?;
            let mut table = Table::new();
            table.load_preset(presets::ASCII_MARKDOWN);
            table.set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(["name", "id", "roles", "scope", "created", "expires"]);
            for entry in tokens.iter() {
                let roles: Vec<&str> = entry.roles.iter().map(|role| role.name()).collect();
                let scope =
                    if entry.scope.is_empty() { "*".to_owned() } else { entry.scope.join(" ") };
                let ended = if entry.is_valid(now()) { "" } else { " (over)" };
                let expires = format!("{}{ended}", entry.expires);
                let (name, id, created) =
                    (entry.name.clone(), entry.id.clone(), entry.created.clone());
                table.add_row([name, id, roles.join(" "), scope, created, expires]);
            }
            println!("{table}");
            Ok(())
        }
        Action::Revoke { name, place } => {
            Tokens::revoke(&place.path(), &name).map_err(Failure::new)?;
            eprintln!("revoked: {name}");
            Ok(())
        }
    }
}

fn lifetime(text: &str) -> std::result::Result<Duration, String> {
    time_kept(text)?.ok_or_else(|| "a token has an end: write it like 90d, 12w or 1y".to_owned())
}
