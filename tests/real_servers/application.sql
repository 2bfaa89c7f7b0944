-- What the drivers' scripts work on: ordinary tables, types of its own, values of many types.
create schema sales;
create type sales.mood as enum ('sad', 'ok', 'happy');
create type sales.place as (street text, town text);
create domain sales.positive as int check (value > 0);
create collation sales.plain (locale = 'C');

create table sales.clients (
    id int generated always as identity primary key,
    name text not null collate sales.plain,
    feeling sales.mood default 'ok',
    home sales.place,
    tags text[] default '{}',
    settings jsonb,
    born date,
    seen timestamptz default '2024-05-01 12:00:00+00',
    weight numeric(10, 2),
    ratio double precision,
    raw bytea,
    token uuid,
    active boolean default true,
    upper_name text generated always as (upper(name)) stored,
    constraint clients_weight_check check (weight > 0),
    constraint clients_name_key unique (name)
);
insert into sales.clients (name, feeling, home, tags, settings, born, weight, ratio, raw, token) values
    ('Ada', 'happy', row('1 High St', 'Leeds'), '{a,"b c",null}', '{"k": [1, 2, null]}', '1990-01-02', 70.50, 0.1, '\x00ff10', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
    ('Bo', 'sad', null, '{}', 'null', null, 1.00, 'NaN', '', null),
    (E'C\ty\n\\ "quoted" ''single'' é 日本', null, row('', null), null, '{}', '2000-02-29', null, '-Infinity', '\x', null);

create table sales.bills (
    id bigserial primary key,
    client int not null references sales.clients (id) on delete cascade deferrable,
    amount sales.positive not null,
    made date not null default '2024-05-01',
    paid int4range
);
insert into sales.bills (client, amount, made, paid) select 1 + n % 3, n, date '2024-01-01' + n, int4range(n, n + 3) from generate_series(1, 300) n;

create table public.plain (id int primary key, v text);
insert into public.plain select n, 'value ' || n from generate_series(1, 50) n;
analyze;
