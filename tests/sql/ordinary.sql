select o.id, sum(amount) over (partition by customer_id order by created_at rows between unbounded preceding and current row) from orders o
select row_number() over w, lag(amount,1,0) over w from orders window w as (order by id)
with recent as (select * from orders where created_at > current_date - interval '30 days') select status, count(*) from recent group by status having count(*) > 1 order by 2 desc
with recursive t(n) as (select 1 union all select n+1 from t where n<10) select n from t
with recursive tree as (select id, customer_id from orders where id=1 union select o.id, o.customer_id from orders o join tree on o.customer_id = tree.id) select * from tree
with recursive g as (select 1 as a, 2 as b union all select a+1,b from g where a<3) search depth first by a set ord select * from g order by ord
with recursive g(f,t) as (select 1,2 union all select t,f from g) cycle f,t set is_cycle using path select * from g
select c.id, l.total from customers c, lateral (select sum(amount) as total from orders where customer_id=c.id) l
select c.id, x.* from customers c cross join lateral (select o.id as oid, o.amount from orders o where o.customer_id=c.id order by amount desc limit 3) x
select jsonb_build_object('id',id,'status',status), to_jsonb(o.status), json_agg(status) from orders o group by id,status
select * from jsonb_each('{"a":1}'::jsonb)
select key, value from json_each_text('{"a":1}')
select x.a, x.b from jsonb_to_recordset('[{"a":1,"b":"x"}]') as x(a int, b text)
select array_agg(id order by id), array_length(array[1,2,3],1), (array[1,2,3])[1], (array[1,2,3])[1:2] from orders
select id from orders where id = any(array[1,2,3]) and status <> all(array['a','b'])
select unnest(array[1,2]), generate_series(1,2)
select * from generate_series('2024-01-01'::date, '2024-02-01', '1 day') as d(day)
select d::date from generate_series(now(), now() + interval '1 day', '1 hour') d
select i, x from unnest(array['a','b']) with ordinality as u(x,i)
select lower(status), upper(note), substring(note from 1 for 3), trim(both ' ' from note), position('x' in note), overlay(note placing 'x' from 1), length(note), replace(note,'a','b'), concat(note,'x'), note || 'y', left(note,2), split_part(note,' ',1), regexp_replace(note,'a','b','g'), format('%s',note) from orders
select created_at + 1, created_at - interval '1 month', extract(year from created_at), date_trunc('month', created_at), age(created_at), to_char(created_at,'YYYY'), created_at at time zone 'utc' from orders
update orders set amount = amount * 1.1, note = default where id in (1,2,3) returning id, amount
update orders o set note = c.name from customers c where c.id=o.customer_id and o.id=1
update orders set (status,note) = (select 'x','y') where id=1
delete from orders using customers c where c.id=customer_id and c.id=99 returning orders.*
select count(*) filter (where status='open'), sum(amount) filter (where id>3), avg(amount), min(amount), max(amount), stddev(amount), percentile_cont(0.5) within group (order by amount), string_agg(distinct status, ',' order by status), bool_and(id>0) from orders
select status, customer_id, grouping(status), sum(amount) from orders group by grouping sets ((status),(customer_id),())
select status, count(*) from orders group by rollup(status)
select status, count(*) from orders group by cube(status, customer_id)
select * from orders tablesample bernoulli(10) repeatable (1)
values (1,'a'),(2,'b') order by 1
select case when amount>10 then 'big' when amount>5 then 'mid' else 'small' end as size from orders
select coalesce(note,'x'), nullif(status,'a'), greatest(1,2), least(1,2) from orders
select exists(select 1 from orders where id=1), id in (select customer_id from orders), (select max(id) from orders) from customers
select o.*, c.name from orders o full join customers c on c.id=o.customer_id
select distinct on (customer_id) id, amount from orders order by customer_id, created_at desc
select id from orders order by amount desc nulls last fetch first 3 rows only
select id from orders for update
select o.id from orders o join customers c on true for share of o nowait
select current_user, session_user, current_date, current_timestamp, now(), localtime, current_database(), version(), current_schema()
select pg_catalog.version(), pg_backend_pid(), txid_current()
select 1::int, '1'::numeric(10,2), cast('x' as varchar(10)), date '2024-01-01', timestamp '2024-01-01 00:00', interval '1 day', true, null, '{1,2}'::int[], '\x00'::bytea, 'a'::char(3)
select md5('a'), sha256('a'), encode('a','base64'), gen_random_uuid(), random()
select to_tsvector('english', note) @@ to_tsquery('order') from orders
select id from orders where note like '%x%' or note ilike 'y%' or note ~ '^a' or note similar to 'a%' or note between 'a' and 'b' or note is distinct from 'z'
select row(1,2) = row(1,2), (1,2) < (3,4), row(o.*) is null from orders o
select o from orders o
select (o).id from orders o
select xmlelement(name a, xmlattributes(id as x), note) from orders
explain select * from orders
explain (analyze, buffers, format json) select count(*) from orders
show server_version
show transaction_isolation
set application_name = 'x'
set statement_timeout = '5s'
set local lock_timeout = 100
set timezone = 'UTC'
set client_encoding = 'UTF8'
set standard_conforming_strings = on
begin isolation level repeatable read read only
savepoint a
release savepoint a
rollback to savepoint a
commit
rollback and chain
set transaction isolation level serializable
set session characteristics as transaction read write
set constraints all deferred
deallocate all
discard all
listen jobs
notify jobs, 'x'
unlisten *
copy orders to stdout
copy (select id, status from orders) to stdout with csv header
create table t1 (id bigint generated always as identity primary key, name text not null unique, created timestamptz default now(), price numeric(10,2) check (price > 0), ref int references orders(id) on delete cascade, tags text[] default '{}', meta jsonb not null default '{}'::jsonb, constraint u unique (name, created))
create temp table t2 (a int)
create table if not exists t3 (a int)
alter table orders add column extra text default 'x' not null
alter table orders add column if not exists extra2 int, add column extra3 timestamptz default now()
create index idx1 on orders (customer_id)
create unique index concurrently if not exists idx2 on orders (lower(note), created_at desc) where status='open'
select id from events where day = '2024-02-02'
insert into events values (2,'2024-03-03','y')
select pg_advisory_xact_lock(1)
select pg_try_advisory_lock(1)
select relname from pg_class where relkind='r' and relnamespace = 'public'::regnamespace
select table_name from information_schema.tables where table_schema='public'
select column_name, data_type from information_schema.columns where table_name='orders' order by ordinal_position
select f_double(3)
select id, f_double(id) from orders
select pg_size_pretty(pg_total_relation_size('orders'))
select to_regclass('orders'), 'orders'::regclass::oid
select sum(amount)::float8/count(*) from orders
select id::text || ':' || status from orders where (id, status) in ((1,'open'),(2,'x'))
select o.id from orders o where exists (select * from customers c where c.id = o.customer_id and c.city = 'Oslo')
select count(distinct customer_id) from orders
select jsonb_path_query('{"a":1}', '$.a'), jsonb_set('{}','{a}','1'), '{"a":1}'::jsonb - 'a', '[1]'::jsonb || '2'
select array(select id from orders), array_remove(array[1,2],1), 1 = any('{1,2}'), array[1]||array[2], array_to_string(array['a'],',')
select int4range(1,5) @> 3, '[1,2]'::int4range && '[2,3]'
select inet '10.0.0.1' << inet '10.0.0.0/8'
select collation for (note), note collate "C" from orders
select date_part('year', created_at), make_date(2024,1,1), to_date('2024','YYYY'), to_timestamp(0), justify_days('30 days') from orders
select 'a' || $1, $2::int + 1
select * from (values (1,'a'),(2,'b')) as v(id,name) where v.id = $1
select id, (select count(*) from orders o2 where o2.customer_id=o.customer_id) from orders o
select ctid, tableoid::regclass, xmin from orders
select * from rows from (generate_series(1,2), generate_series(1,3)) as t(a,b)
declare c1 cursor for select * from orders
table orders
select 1 as a group by a
select note as n from orders group by n, orders.note order by n
select sum(x) from (select amount as x from orders) s
select width_bucket(5.3, 0, 10, 5), abs(-1), round(1.5), ceil(1.2), mod(5,2), 5 % 2, 2 ^ 3, |/ 4, @ -5, power(2,3), sqrt(4)
select "char" 'a', 'x'::name, 1::oid, 'x'::"char"
select * from information_schema._pg_expandarray(array[1,2])
select not true, true and false or true, 1 is null, null is not null, true is unknown
select customer_id, array_agg(o) from orders o group by 1
select current_setting('server_version_num')::int
select pg_catalog.set_config('search_path', '', false)
select tsrange(now()::timestamp, null)
select meta->'card'->>'exp', meta #> '{card}', meta @> '{"a":1}', meta ? 'card', tags[1], tags[1:2] from orders where id = 1
select e.value->>'x' from orders o, jsonb_array_elements(o.meta->'items') e
select * from xmltable('/a' passing ('<a/>'::xml) columns b text path 'b') x
select (select 1), (array[[1,2],[3,4]])[1][2]
insert into dept(id, title) values (100, 'a') on conflict (id) do update set title = excluded.title where dept.title <> excluded.title returning id, title, (xmax = 0) as inserted
insert into dept(id, title) values (101, 'a'), (102, 'b') on conflict do nothing
insert into dept select id + 1000, note from orders returning *
merge into dept s using (select 1 as id, 'z' as v) n on s.id = n.id when matched and s.title is null then delete when matched then update set title = n.v when not matched then insert (id, title) values (n.id, n.v)
select * from orders o left join dept using (id)
select * from (orders o join customers c on c.id = o.customer_id) as j(a, b)
select j.* from (orders join dept using (id)) as j
select u.id, orders.*, dept.title from orders join dept using (id) as u
select id from orders union all select id from dept union select 1 order by id limit 5 offset 2
select * from events where day >= '2024-01-01'
select token, shout from crm_two where token = $1
select o.ctid, o.tableoid::regclass, 'x' as "?" from only orders as o
select (information_schema._pg_expandarray(array[1, 2])).*
select tableoid, * from cars
copy dept (id, title) from stdin with (format csv, header)
truncate dept cascade
update customers set city = initcap(city) where id in (select customer_id from orders group by 1 having count(*) > 3) returning id, city
delete from orders o using customers c where c.id = o.customer_id and c.city = 'Oslo' returning o.id, c.name
