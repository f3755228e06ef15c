//! `SELECT *` over joins with `USING`, as PostgreSQL orders it: merged columns first, and each from the side that has it.
//!
//! DataFusion keeps one column of a merged pair by the alphabet of the tables' names, which in an outer join may be the one
//! that is NULL. So where the tree alone tells whose the merged columns are, the star is written out.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};

/// Writes the stars of `query` out where that matters.
pub(super) fn expand_stars(query: &mut ast::Query) {
    struct Stars;
    impl VisitorMut for Stars {
        type Break = ();

        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            if let Some(items) = expanded(select) {
                let plain = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_));
                let written = std::mem::take(&mut select.projection);
                select.projection =
                    written.into_iter().flat_map(|item| if plain(&item) { items.clone() } else { vec![item] }).collect();
            }
            ControlFlow::Continue(())
        }
    }
    let _ = query.visit(&mut Stars);
}

/// A column that `USING` merges.
struct Merged {
    name: Ident,
    value: Expr,
    /// The places of the relations that have it.
    relations: Vec<usize>,
}

/// What `*` stands for in `select`; `None` where it may stay.
fn expanded(select: &Select) -> Option<Vec<SelectItem>> {
    let star = select.projection.iter().any(|item| match item {
        SelectItem::Wildcard(options) => *options == WildcardAdditionalOptions::default(),
        _ => false,
    });
    let [from] = select.from.as_slice() else { return None };
    if !star || from.joins.is_empty() {
        return None;
    }
    let mut relations = vec![relation_name(&from.relation)?];
    let mut merged: Vec<Merged> = Vec::new();
    for join in &from.joins {
        let place = relations.len();
        let name = relation_name(&join.relation)?;
        let (constraint, kept) = kept(&join.join_operator)?;
        match constraint {
            JoinConstraint::Using(columns) => {
                for column in columns {
                    let column = column.0.last()?.as_ident()?;
                    merge(&mut merged, column, &relations, &name, place, kept)?;
                }
            }
            JoinConstraint::Natural => return None,
            JoinConstraint::On(_) | JoinConstraint::None => {}
        }
        relations.push(name);
    }
    if merged.is_empty() {
        return None;
    }
    let mut items: Vec<SelectItem> = Vec::with_capacity(merged.len() + relations.len());
    for column in &merged {
        items.push(SelectItem::ExprWithAlias { expr: column.value.clone(), alias: column.name.clone() });
    }
    for (place, relation) in relations.into_iter().enumerate() {
        let hidden = merged.iter().filter(|column| column.relations.contains(&place));
        let hidden: Vec<_> = hidden.map(|column| object_name(column.name.clone())).collect();
        let options = WildcardAdditionalOptions {
            opt_exclude: (!hidden.is_empty()).then_some(ExcludeSelectItem::Multiple(hidden)),
            ..WildcardAdditionalOptions::default()
        };
        let kind = SelectItemQualifiedWildcardKind::ObjectName(object_name(relation));
        items.push(SelectItem::QualifiedWildcard(kind, options));
    }
    Some(items)
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
        | JoinOperator::CrossJoin(constraint) => Some((constraint, Kept::Left)),
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => Some((constraint, Kept::Right)),
        JoinOperator::FullOuter(constraint) => Some((constraint, Kept::Either)),
        _ => None,
    }
}

/// Adds a column that a join merges; `None` where it cannot be told which relation on the left has it.
fn merge(merged: &mut Vec<Merged>, column: &Ident, left: &[Ident], right: &Ident, place: usize, kept: Kept) -> Option<()> {
    let of = |relation: &Ident| Expr::CompoundIdentifier(vec![relation.clone(), column.clone()]);
    let index = match (merged.iter().position(|other| other.name.value == column.value), left) {
        (Some(index), _) => index,
        (None, [only]) => {
            merged.push(Merged { name: column.clone(), value: of(only), relations: vec![0] });
            merged.len() - 1
        }
        (None, _) => return None,
    };
    let entry = &mut merged[index];
    entry.relations.push(place);
    entry.value = match kept {
        Kept::Left => entry.value.clone(),
        Kept::Right => of(right),
        Kept::Either => coalesce(entry.value.clone(), of(right)),
    };
    Some(())
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

/// The name a relation is known by, where its columns keep their own names.
fn relation_name(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => match alias {
            Some(alias) if alias.columns.is_empty() => Some(alias.name.clone()),
            Some(_) => None,
            None => name.0.last()?.as_ident().cloned(),
        },
        TableFactor::Derived { alias: Some(alias), .. } if alias.columns.is_empty() => Some(alias.name.clone()),
        _ => None,
    }
}
