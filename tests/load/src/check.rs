//! Whether a database holds what was written, when nobody writes: each sample, once.

use std::path::Path;

use crate::Outcome;
use crate::ask::{At, Way, content};
use crate::content::Content;
use crate::fleet::Logbook;
use crate::server::Server;

/// Compares a server that was started once with what gateways wrote to it, and prints what it looked at.
///
/// # Errors
/// If the server cannot be asked.
pub(crate) async fn quiet(
    program: &Path,
    server: &Server,
    model: &mut Content,
    logbook: &Logbook,
) -> Outcome<bool> {
    let logged = server.samples_written().await?;
    let sent: u64 = logbook.batches.iter().map(|batches| model.plant().written(*batches)).sum();
    let mut offences = contents(program, server, model, &logbook.batches).await?;
    if logged != sent {
        offences.push(format!(
            "the server's log took {logged} samples, sent and acknowledged were {sent}"
        ));
    }
    if logbook.rejected > 0 {
        offences.push(format!("the server refused {} samples", logbook.rejected));
    }
    for offence in &offences {
        println!("  FAILED        {offence}");
    }
    if offences.is_empty() {
        println!(
            "  checked       count and sum of every tag, by SQL as it likes and row by row; the log took {logged} samples, \
             as many as were sent"
        );
    }
    Ok(offences.is_empty())
}

/// Offences in what a server holds, asked both ways, when exactly these batches of each gateway must be there.
///
/// # Errors
/// If it cannot be asked.
pub(crate) async fn contents(
    program: &Path,
    server: &Server,
    model: &mut Content,
    batches: &[u64],
) -> Outcome<Vec<String>> {
    let at = At::Server(server.address().to_owned());
    let mut offences = Vec::new();
    for way in [Way::Best, Way::RowByRow] {
        let verdict = model.compare(&content(program, &at, way).await?, batches);
        offences.extend(verdict.offences);
    }
    if model.batches() != batches {
        offences.push(format!("{:?} batches are there, sent were {batches:?}", model.batches()));
    }
    Ok(offences)
}
