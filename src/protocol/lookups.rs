//! Lookups on the short road: bound from bytes, gathered over a pipeline, asked for together, answered in one piece.
//!
//! `Execute` of a lookup does not wait: it is put beside the others of its pipeline, with the place in the outbox where its answer
//! belongs. What comes after may add to the outbox as long as it does not depend on how the lookups end (`Parse`, `Bind`,
//! `Describe`, more lookups); before anything else the lookups are settled, and when one of them fails, it is as if nothing
//! after it had been listened to.

use std::sync::Arc;

use arrow::array::ArrayRef;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::backend::{Backend, with_length};
use super::connection::{Connection, WRITE_BYTES, guard};
use super::decode;
use super::encode::{TextStyle, write_packed};
use super::extended::{Bound, PortalState};
use super::frontend::Bind;
use super::key_values::add_slot;
use super::rows::Formats;
use super::statements::NamedStatement;
use super::{Failure, Format};
use crate::error::{Error, Result};
use crate::lookup::{Ask, ColumnSource, CompiledLookup, Found, Given, LOOKUP_KEYS_MAX, NothingGiven, Slot, SlotValues};
use crate::online::PackedRow;
use crate::session::{Prepared, TransactionStatus};
use crate::time::EventTime;
use crate::types::SqlType;
use crate::types::cells::Cells;
use crate::types::text::Zone;

/// How many lookups are gathered before they are settled.
const GATHERED_MAX: usize = 1024;

/// Lookups that were executed and are not answered yet.
#[derive(Default)]
pub(super) struct Gathered {
    asks: Vec<Ask>,
    orders: Vec<Order>,
    /// How many rows of the store they ask for.
    keys: usize,
    /// What `Parse` replaced since the first of them, so that it can be put back.
    replaced: Vec<Replaced>,
    /// Space that is used again.
    values: SlotValues,
    after: BytesMut,
}

/// What an `Execute` asked for.
struct Order {
    portal: String,
    bound: Arc<Bound>,
    /// The message that bound it, for the planner.
    bind: Bytes,
    rows_max: u64,
    /// The place of the answer in the outbox.
    at: usize,
}

/// A statement's name and what it stood for, before a `Parse` that came after so many lookups.
struct Replaced {
    lookups: usize,
    name: String,
    statement: Option<Arc<NamedStatement>>,
}

/// Rows of an answer that were not asked for yet, as messages.
pub(super) struct KeptRows(Bytes);

impl KeptRows {
    /// Sends at most so many; gives how many.
    pub(super) fn write(&mut self, rows_max: u64, out: &mut BytesMut) -> u64 {
        let mut written = 0;
        while written < rows_max
            && let Some(length) = self.0.get(1..).and_then(|rest| rest.first_chunk())
        {
            let message = 1 + usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let message = message.min(self.0.len());
            out.extend_from_slice(&self.0[..message]);
            self.0.advance(message);
            written += 1;
        }
        written
    }
}

impl Gathered {
    /// Whether none is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Remembers what a name stood for that now stands for something else.
    pub(super) fn replaces(&mut self, name: &str, statement: Option<Arc<NamedStatement>>) {
        if !self.is_empty() {
            self.replaced.push(Replaced { lookups: self.orders.len(), name: name.to_owned(), statement });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// The statement that was prepared from this text and these types, here or by another connection, if it is a lookup.
    pub(super) fn shared_lookup(&self, query: &str, types: &[u32]) -> Option<Arc<NamedStatement>> {
        self.statements.get(query, types, &self.session.standpoint()?)
    }

    /// The statement to bind in the place of a lookup that was compiled for other definitions or another time zone. Where that
    /// is no lookup of the same shape, the planner is left to say what became of it.
    pub(super) async fn renewed(&mut self, name: &str, statement: Arc<NamedStatement>) -> Arc<NamedStatement> {
        let Some((lookup, query, types)) = statement.lookup() else { return statement };
        match self.session.standpoint() {
            Some(standpoint) if standpoint != lookup.standpoint && self.session.transaction() != TransactionStatus::Failed => {}
            // It holds, or the road is closed for now.
            _ => return statement,
        }
        let renewed = match self.shared_lookup(query, types) {
            Some(shared) => Ok(shared),
            None => self.prepare_text(query, types).await,
        };
        let renewed = match renewed {
            Ok(renewed) if renewed.is_shaped_like(&statement) => renewed,
            Ok(_) | Err(_) => Arc::new(statement.without_lookup()),
        };
        self.extended.replace_statement(name, &renewed);
        renewed
    }

    /// What a `Bind` asks for; `None` where the planner is to see its values.
    pub(super) fn ask(&mut self, bind: &Bind<'_>, lookup: &Arc<CompiledLookup>) -> Option<Ask> {
        let zone = self.style().ok()?.zone;
        // A value that is none is an error, which the planner's way of reading it tells.
        Ask::of(lookup, &mut GivenByBind { bind, zone }, &mut self.gathered.values).ok()?
    }

    /// Puts a portal that is a lookup beside the others of its pipeline; gives whether it is one, and may be.
    pub(super) async fn gather(&mut self, portal: &str, rows_max: u64) -> Result<bool, Failure> {
        if self.gathered.keys >= LOOKUP_KEYS_MAX || self.gathered.orders.len() >= GATHERED_MAX {
            self.settle().await?;
        }
        let session = &self.session;
        let may_be = |lookup: &CompiledLookup| session.takes_short_road(lookup);
        let Some(Gathering { bound, ask, bind }) = self.extended.take_lookup(portal, may_be) else {
            return Ok(false);
        };
        self.gathered.keys += ask.keys();
        self.gathered.asks.push(ask);
        let at = self.wire.outbox.len();
        self.gathered.orders.push(Order { portal: portal.to_owned(), bound, bind, rows_max, at });
        Ok(true)
    }

    /// Answers the lookups that were gathered: one round trip to the store. After an error the answers before it stand, and
    /// nothing after it was said.
    pub(super) async fn settle(&mut self) -> Result<(), Failure> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let deadline = self.start_statement();
        let found = guard(&self.registration.switch, deadline, self.session.look_up(&self.gathered.asks)).await;
        let mut gathered = std::mem::take(&mut self.gathered);
        let settled = match found {
            Ok((rows, now)) => self.answer(&mut gathered, &rows, now).await,
            Err(Failure::Statement(error)) if self.session.retries_on_planned_road(&error) => {
                Box::pin(self.plan_gathered(&mut gathered)).await
            }
            Err(failure) => {
                self.take_back(&mut gathered, 0);
                Err(failure)
            }
        };
        // Emptied, its space is kept.
        gathered.asks.clear();
        gathered.orders.clear();
        gathered.replaced.clear();
        gathered.keys = 0;
        self.gathered = gathered;
        settled?;
        if self.wire.outbox.len() >= WRITE_BYTES {
            self.flush_guarded(deadline).await?;
        }
        Ok(())
    }

    /// Writes the answers, each at its place.
    async fn answer(&mut self, gathered: &mut Gathered, rows: &[Option<PackedRow>], now: EventTime) -> Result<(), Failure> {
        let style = self.style()?;
        let (mut answered, mut hits, mut first_row, mut moved) = (0, 0, 0, 0);
        self.set_aside(gathered);
        let start = gathered.orders.first().map_or(0, |order| order.at);
        for place in 0..gathered.orders.len() {
            let (order, ask) = (&gathered.orders[place], &gathered.asks[place]);
            self.bring_back(gathered, &mut moved, order.at - start);
            let found = Found::new(ask, &rows[first_row..first_row + ask.keys()], now);
            first_row += ask.keys();
            let computed = match computed_cells(&found) {
                Ok(computed) => computed,
                Err(error) => {
                    tracing::debug!(error = %error, "computing on the planned road");
                    Box::pin(self.plan_order(gathered, place)).await?;
                    continue;
                }
            };
            let began = self.wire.outbox.len();
            let wanted = Wanted { formats: &order.bound.formats, rows_max: order.rows_max };
            match write_answer(&wanted, &found, &computed, style, &mut self.wire.outbox) {
                Ok(written) => {
                    answered += 1;
                    hits += written.hits;
                    self.extended.set_state(&order.portal, &order.bound, written.state);
                }
                Err(error) => {
                    self.wire.outbox.truncate(began);
                    self.forget_from(gathered, place);
                    return Err(error.into());
                }
            }
        }
        self.bring_back(gathered, &mut moved, gathered.after.len());
        self.session.count_lookups(answered, hits);
        Ok(())
    }

    /// Answers the lookups as the planner does, which may read the offline store.
    async fn plan_gathered(&mut self, gathered: &mut Gathered) -> Result<(), Failure> {
        self.set_aside(gathered);
        let start = gathered.orders.first().map_or(0, |order| order.at);
        let mut moved = 0;
        for place in 0..gathered.orders.len() {
            self.bring_back(gathered, &mut moved, gathered.orders[place].at - start);
            self.plan_order(gathered, place).await?;
        }
        self.bring_back(gathered, &mut moved, gathered.after.len());
        Ok(())
    }

    /// Answers one of the lookups as the planner does; where that fails, it is as if nothing after it had been listened to.
    async fn plan_order(&mut self, gathered: &Gathered, place: usize) -> Result<(), Failure> {
        let order = &gathered.orders[place];
        let deadline = self.start_statement();
        let planned = match self.bound_for_planner(&order.bound, &order.bind) {
            Ok(bound) => self.run_portal(&bound, order.rows_max, deadline).await,
            Err(error) => Err(error.into()),
        };
        match planned {
            Ok(state) => self.extended.set_state(&order.portal, &order.bound, state),
            Err(failure) => {
                self.forget_from(gathered, place);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Moves what was said after the first lookup out of the outbox.
    fn set_aside(&mut self, gathered: &mut Gathered) {
        gathered.after.clear();
        if let Some(first) = gathered.orders.first() {
            gathered.after.extend_from_slice(&self.wire.outbox[first.at..]);
            self.wire.outbox.truncate(first.at);
        }
    }

    /// Says what was set aside, up to there.
    fn bring_back(&mut self, gathered: &Gathered, moved: &mut usize, until: usize) {
        self.wire.outbox.extend_from_slice(&gathered.after[*moved..until]);
        *moved = until;
    }

    /// Unsays everything from this lookup on.
    fn take_back(&mut self, gathered: &mut Gathered, lookup: usize) {
        if let Some(order) = gathered.orders.get(lookup) {
            self.wire.outbox.truncate(order.at);
        }
        self.forget_from(gathered, lookup);
    }

    /// Undoes what `Parse` and `Bind` did after this lookup, which failed; its portal, and those of the lookups after it, are gone.
    fn forget_from(&mut self, gathered: &Gathered, lookup: usize) {
        for order in &gathered.orders[lookup..] {
            self.extended.remove_portal(&order.portal, &order.bound);
        }
        for replaced in gathered.replaced.iter().rev().filter(|replaced| replaced.lookups > lookup) {
            self.extended.put_back(&replaced.name, replaced.statement.clone());
        }
    }

    /// Answers a lookup without parameters, its columns first; gives whether it could.
    pub(super) async fn look_up_described(&mut self, prepared: &Prepared) -> Result<bool, Failure> {
        let (Some(lookup), Some(schema)) = (&prepared.lookup, &prepared.columns) else { return Ok(false) };
        if !lookup.is_without_parameters() || !self.session.takes_short_road(lookup) {
            return Ok(false);
        }
        let Some(ask) = Ask::of(lookup, &mut NothingGiven, &mut self.gathered.values)? else { return Ok(false) };
        let asks = [ask];
        let deadline = self.start_statement();
        let found = guard(&self.registration.switch, deadline, self.session.look_up(&asks)).await;
        let (rows, now) = match found {
            Err(Failure::Statement(error)) if self.session.retries_on_planned_road(&error) => return Ok(false),
            found => found?,
        };
        let style = self.style()?;
        let [ask] = &asks;
        let found = Found::new(ask, &rows, now);
        let Ok(computed) = computed_cells(&found) else { return Ok(false) };
        let columns = super::rows::columns_of(schema)?;
        self.wire.outbox.row_description(&columns, |_| Format::Text)?;
        let wanted = Wanted { formats: &Formats::All(Format::Text), rows_max: u64::MAX };
        let answered = write_answer(&wanted, &found, &computed, style, &mut self.wire.outbox)?;
        self.session.count_lookups(1, answered.hits);
        if self.wire.outbox.len() >= WRITE_BYTES {
            self.flush_guarded(deadline).await?;
        }
        Ok(true)
    }
}

/// The values of parameters as a `Bind` has them.
struct GivenByBind<'a, 'b> {
    bind: &'a Bind<'b>,
    zone: Zone,
}

impl Given for GivenByBind<'_, '_> {
    fn add_slot(&mut self, slot: &Slot, values: &mut SlotValues) -> Result<()> {
        let format = self.bind.parameter_format(slot.parameter)?;
        add_slot(slot, self.bytes(slot.parameter)?, format, self.zone, values)
    }

    fn value(&mut self, parameter: usize, data_type: &SqlType) -> Result<ArrayRef> {
        let format = self.bind.parameter_format(parameter)?;
        let value = decode::parameter(self.bytes(parameter)?, format, data_type, parameter + 1, self.zone)?;
        value.to_array().map_err(|source| Error::internal("a parameter that is no value").caused_by(source))
    }
}

impl GivenByBind<'_, '_> {
    fn bytes(&self, parameter: usize) -> Result<Option<&[u8]>> {
        let value = self.bind.parameters.get(parameter).copied();
        value.ok_or_else(|| Error::internal(format!("a lookup without its parameter ${}", parameter + 1)))
    }
}

/// A portal that is a lookup, as it is taken from among the others.
pub(super) struct Gathering {
    pub(super) bound: Arc<Bound>,
    pub(super) ask: Ask,
    /// The message that bound it.
    pub(super) bind: Bytes,
}

/// How the rows of an answer are wanted.
struct Wanted<'a> {
    formats: &'a Formats,
    rows_max: u64,
}

/// What an answer came to.
struct Answered {
    state: PortalState,
    hits: u64,
}

/// What is computed for an answer, a column for each expression.
fn computed_cells(found: &Found<'_>) -> Result<Vec<Cells>> {
    let computed = found.compute()?;
    // The expressions stand in the order of the columns that they are.
    let types = found.lookup().columns.iter().filter(|column| matches!(column.source, ColumnSource::Computed(_)));
    computed.iter().zip(types).map(|(values, column)| Cells::new(values, &column.sql_type)).collect()
}

/// Writes at most so many rows, and the tag or the word that there may be more.
fn write_answer(
    wanted: &Wanted<'_>,
    found: &Found<'_>,
    computed: &[Cells],
    style: TextStyle,
    out: &mut BytesMut,
) -> Result<Answered> {
    let Wanted { formats, rows_max } = *wanted;
    let lookup = found.lookup();
    let columns = i16::try_from(lookup.columns.len()).map_err(|_| Error::internal("a row of too many fields"))?;
    let (mut number, mut rows, mut hits) = (0_usize, 0_u64, 0);
    let mut end_of_sent = None;
    let mut answer = found.answer();
    while let Some(row) = answer.advance() {
        if rows == rows_max {
            end_of_sent = Some(out.len());
        }
        hits += row.hits();
        out.put_u8(b'D');
        with_length(out, 4, |out| {
            out.put_i16(columns);
            for (place, column) in lookup.columns.iter().enumerate() {
                match column.source {
                    ColumnSource::Cell(source) => match found.cell(row, source)? {
                        None => out.put_i32(-1),
                        Some(value) => {
                            with_length(out, 0, |out| write_packed(&column.sql_type, value, formats.of(place), style, out))?;
                        }
                    },
                    ColumnSource::Computed(expression) => {
                        computed[expression].write_field(number, formats.of(place), style, out)?;
                    }
                }
            }
            Ok(())
        })?;
        number += 1;
        rows += 1;
    }
    let hits = found.shared_hits().unwrap_or(hits);
    if rows < rows_max {
        out.select_complete(rows);
        return Ok(Answered { state: PortalState::Exhausted, hits });
    }
    let kept = match end_of_sent {
        Some(end) => {
            let kept = Bytes::copy_from_slice(&out[end..]);
            out.truncate(end);
            kept
        }
        None => Bytes::new(),
    };
    out.portal_suspended()?;
    Ok(Answered { state: PortalState::Kept(KeptRows(kept)), hits })
}
