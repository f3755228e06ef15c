//! `SELECT *` over joins with `USING`, as PostgreSQL orders it: merged columns first, and each from the side that has it.
//!
//! DataFusion keeps one column of a merged pair by the alphabet of the tables' names, which in an outer join may be the one
//! that is NULL. So where the tree alone tells whose the merged columns are, the star is written out.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, Visit, VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
};

use crate::error::{Error, Result};

/// The columns of the tables a query names, by the name it uses.
pub(super) type Columns = HashMap<String, Vec<String>>;

/// Whether `query` has a star over merged columns.
pub(super) fn has_merged_star(query: &ast::Query) -> bool {
    struct Stars;
    impl Visitor for Stars {
        type Break = ();

        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let using = |join: &ast::Join| {
                kept(&join.join_operator).is_some_and(|(constraint, _)| matches!(constraint, JoinConstraint::Using(_)))
            };
            let merges = select.from.iter().any(|from| from.joins.iter().any(using));
            if merges && select.projection.iter().any(is_plain_star) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    query.visit(&mut Stars).is_break()
}

/// Writes the stars of `query` out where that matters; an error where a merged column's side cannot be told and might be
/// the NULL one.
pub(super) fn expand_stars(query: &mut ast::Query, columns: &Columns) -> Result<()> {
    struct Stars<'a>(&'a Columns);
    impl VisitorMut for Stars<'_> {
        type Break = Error;

        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
            match expanded(select, self.0) {
                Ok(None) => {}
                Ok(Some(items)) => {
                    let written = std::mem::take(&mut select.projection);
                    let items = |item| if is_plain_star(&item) { items.clone() } else { vec![item] };
                    select.projection = written.into_iter().flat_map(items).collect();
                }
                Err(error) => return ControlFlow::Break(error),
            }
            ControlFlow::Continue(())
        }
    }
    match query.visit(&mut Stars(columns)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn is_plain_star(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(options) if *options == WildcardAdditionalOptions::default())
}

/// A relation of a join: its name in the query, and its columns where they are known.
struct Relation {
    name: Ident,
    columns: Option<Vec<String>>,
}

/// A column that `USING` merges.
struct Merged {
    name: Ident,
    value: Expr,
    /// The places of the relations that have it.
    relations: Vec<usize>,
}

/// What `*` stands for in `select`; `None` where it may stay.
fn expanded(select: &Select, columns: &Columns) -> Result<Option<Vec<SelectItem>>> {
    let [from] = select.from.as_slice() else { return Ok(None) };
    if from.joins.is_empty() || !select.projection.iter().any(is_plain_star) {
        return Ok(None);
    }
    let mut relations = Vec::new();
    let mut merged: Vec<Merged> = Vec::new();
    relations.extend(relation(&from.relation, columns));
    for (number, join) in from.joins.iter().enumerate() {
        let Some((constraint, kept)) = kept(&join.join_operator) else { return Ok(None) };
        let right = relation(&join.relation, columns);
        if let JoinConstraint::Using(names) = constraint {
            for name in names {
                let column = name.0.last().and_then(ObjectNamePart::as_ident);
                // Without a name for each relation, nothing can be written out.
                let named = relations.len() == number + 1;
                let told = match (column, &right) {
                    (Some(column), Some(right)) if named => merge(&mut merged, column, &relations, right, kept),
                    _ => None,
                };
                if told.is_none() {
                    return untold(&join.join_operator, name);
                }
            }
        }
        relations.extend(right);
    }
    if merged.is_empty() || relations.len() != from.joins.len() + 1 {
        return Ok(None);
    }
    let mut items: Vec<SelectItem> = Vec::with_capacity(merged.len() + relations.len());
    for column in &merged {
        items.push(SelectItem::ExprWithAlias { expr: column.value.clone(), alias: column.name.clone() });
    }
    for (place, relation) in relations.into_iter().enumerate() {
        let hidden = merged.iter().filter(|column| column.relations.contains(&place));
        let hidden: Vec<_> = hidden.map(|column| object_name(column.name.clone())).collect();
        let only_hidden = relation.columns.is_some_and(|columns| columns.len() == hidden.len());
        if only_hidden {
            continue;
        }
        let options = WildcardAdditionalOptions {
            opt_exclude: (!hidden.is_empty()).then_some(ExcludeSelectItem::Multiple(hidden)),
            ..WildcardAdditionalOptions::default()
        };
        let kind = SelectItemQualifiedWildcardKind::ObjectName(object_name(relation.name));
        items.push(SelectItem::QualifiedWildcard(kind, options));
    }
    Ok(Some(items))
}

/// Either side will do where both are equal in every row.
fn untold(operator: &JoinOperator, column: &ObjectName) -> Result<Option<Vec<SelectItem>>> {
    match operator {
        JoinOperator::Join(_) | JoinOperator::Inner(_) => Ok(None),
        _ => Err(Error::unsupported(format!("SELECT * where USING ({column}) merges columns of an outer join like this"))
            .hint("Name the columns, or give the relations aliases.")),
    }
}

/// Which side of a join a merged column comes from.
#[derive(Clone, Copy)]
enum Kept {
    Left,
    Right,
    Either,
}

fn kept(operator: &JoinOperator) -> Option<(&JoinConstraint, Kept)> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::AsOf { constraint, .. } => Some((constraint, Kept::Left)),
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => Some((constraint, Kept::Right)),
        JoinOperator::FullOuter(constraint) => Some((constraint, Kept::Either)),
        _ => None,
    }
}

/// Adds a column that a join merges; `None` where it cannot be told which relation on the left has it.
fn merge(merged: &mut Vec<Merged>, column: &Ident, left: &[Relation], right: &Relation, kept: Kept) -> Option<()> {
    let of = |relation: &Relation| Expr::CompoundIdentifier(vec![relation.name.clone(), column.clone()]);
    let known = merged.iter().position(|other| folded(&other.name) == folded(column));
    let index = match known {
        Some(index) => index,
        None => {
            let owner = owner(left, &folded(column))?;
            merged.push(Merged { name: column.clone(), value: of(&left[owner]), relations: vec![owner] });
            merged.len() - 1
        }
    };
    let entry = &mut merged[index];
    entry.relations.push(left.len());
    entry.value = match kept {
        Kept::Left => entry.value.clone(),
        Kept::Right => of(right),
        Kept::Either => coalesce(entry.value.clone(), of(right)),
    };
    Some(())
}

/// The place of the relation that has a column.
fn owner(relations: &[Relation], column: &str) -> Option<usize> {
    let with = |wanted: Option<bool>| {
        let has = |relation: &Relation| relation.columns.as_ref().map(|columns| columns.iter().any(|name| name == column));
        let mut places = relations.iter().enumerate().filter(move |(_, relation)| has(relation) == wanted);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Some(place),
            _ => None,
        }
    };
    with(Some(true)).or_else(|| with(None))
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn coalesce(first: Expr, second: Expr) -> Expr {
    let argument = |expr| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr));
    Expr::Function(ast::Function {
        name: object_name(Ident::new("coalesce")),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument(first), argument(second)],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn object_name(ident: Ident) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(ident)])
}

/// A relation whose columns keep their own names.
fn relation(factor: &TableFactor, columns: &Columns) -> Option<Relation> {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let parts = name.0.iter().map(|part| part.as_ident().map(folded)).collect::<Option<Vec<_>>>()?;
            let columns = columns.get(&parts.join(".")).cloned();
            match alias {
                Some(alias) if alias.columns.is_empty() => Some(Relation { name: alias.name.clone(), columns }),
                Some(_) => None,
                None => Some(Relation { name: name.0.last()?.as_ident()?.clone(), columns }),
            }
        }
        TableFactor::Derived { alias: Some(alias), .. } if alias.columns.is_empty() => {
            Some(Relation { name: alias.name.clone(), columns: None })
        }
        _ => None,
    }
}
