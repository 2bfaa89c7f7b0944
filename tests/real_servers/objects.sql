-- On top of application.sql: one object at least of every kind that psql's backslash commands and pg_dump know.
comment on schema sales is 'what is sold';
comment on domain sales.positive is 'above zero';
create sequence sales.numbers start 100 increment 5;

comment on table sales.clients is 'who buys';
comment on column sales.clients.home is 'where they live';
create index bills_made on sales.bills (made desc, amount) where amount > 10;
create index bills_span on sales.bills using gist (paid);
create unique index bills_lower on sales.bills ((amount * 2), id);
comment on index sales.bills_made is 'for reports';
create statistics sales.bills_amounts on client, amount from sales.bills;
alter table sales.bills add constraint bills_apart exclude using gist (paid with &&) where (amount = 0);

create table sales.events (id int, happened date not null, body text) partition by range (happened);
create table sales.events_2024 partition of sales.events for values from ('2024-01-01') to ('2025-01-01');
create table sales.events_rest partition of sales.events default;
insert into sales.events select n, date '2024-11-01' + n, 'event ' || n from generate_series(1, 120) n;
create table sales.parent (a int, b text);
create table sales.child (c int) inherits (sales.parent);
insert into sales.child values (1, 'x', 2);
create unlogged table sales.scratch (v text);
create table public.empty ();
create table public."Odd name" ("a column" int, "select" text);

create view sales.happy as select id, name from sales.clients where feeling = 'happy' with check option;
comment on view sales.happy is 'those';
create materialized view sales.totals as select client, sum(amount) as total from sales.bills group by client;
create unique index totals_client on sales.totals (client);
create rule plain_log as on update to public.plain do also insert into sales.scratch values (new.v);

create function sales.doubled(x int) returns int language sql immutable strict parallel safe as 'select x * 2';
comment on function sales.doubled is 'twice';
create function sales.greet(name text default 'you', out said text) language plpgsql stable as $$ begin said := 'hello ' || name; end $$;
create function sales.stamp() returns trigger language plpgsql as $$ begin new.made := coalesce(new.made, date '2024-01-01'); return new; end $$;
create procedure sales.tidy(inout n int) language plpgsql as $$ begin n := n + 1; end $$;
create aggregate sales.total (int) (sfunc = int4pl, stype = int, initcond = '0');
create trigger bills_stamp before insert on sales.bills for each row execute function sales.stamp();
create operator sales.=== (leftarg = int, rightarg = int, function = int4eq, commutator = operator(sales.===));
create operator class sales.int_backwards for type int using btree as
    operator 1 > , operator 2 >= , operator 3 = , operator 4 <= , operator 5 < , function 1 btint4cmp(int, int);
create cast (sales.positive as sales.mood) with inout;
create conversion sales.from_latin for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
create text search dictionary sales.simple_words (template = simple);
create text search configuration sales.words (copy = simple);
create function sales.watch() returns event_trigger language plpgsql as $$ begin end $$;
create event trigger watching on ddl_command_start when tag in ('SECURITY LABEL') execute function sales.watch();

create extension pg_trgm;
create extension postgres_fdw;
create server elsewhere foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1', dbname 'x');
create user mapping for public server elsewhere options (user 'u');
create foreign table sales.remote (id int, v text) server elsewhere options (table_name 'plain');
create publication everything for table public.plain, sales.bills;

alter table sales.clients enable row level security;
create policy own on sales.clients for select using (name = current_user);
grant select on sales.clients to public;
grant select (id, v), update (v) on public.plain to public;
alter default privileges in schema sales grant select on tables to public;
analyze;
