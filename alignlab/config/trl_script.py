"""Reads the arguments of a TRL training from its Python script, which is parsed and never run.

A value is known if it is literal, or made of literal values: a name that is assigned once, `dict(...)`, a sum, an
f-string. Rows and weights are followed from the trainer back to `load_dataset` and `from_pretrained`.
"""

from __future__ import annotations

import ast
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

from alignlab.errors import ConfigError, Problem

# Names in LoraConfig -> names in TRL's ModelConfig.
_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "bias": "lora_bias",
}
# peft's own defaults of LoraConfig, which are not those of TRL's ModelConfig.
_LORA_DEFAULTS = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}

# Arguments of from_pretrained -> names in TRL's ModelConfig.
_MODEL = {"torch_dtype": "dtype", "revision": "model_revision"}
_PLACEMENT = {"device_map", "use_cache", "low_cpu_mem_usage", "cache_dir", "token", "use_safetensors", "max_seq_length"}

# Trainers that take a model as reference, and trainers that take reward functions.
_WITH_REFERENCE, _WITH_REWARDS = {"dpo", "kto"}, {"rloo", "grpo"}

# Arguments of a trainer that are looked at by themselves, and those that are objects.
_OF_TRAINER = {"model", "ref_model", "args", "train_dataset", "eval_dataset", "processing_class", "tokenizer",
               "peft_config", "reward_funcs", "reward_processing_classes"}  # fmt: skip
_OBJECTS = {"callbacks", "data_collator", "formatting_func", "compute_metrics", "optimizers", "model_init",
            "preprocess_logits_for_metrics", "optimizer_cls_and_kwargs", "rollout_func", "tools"}  # fmt: skip

_FILES = ("json", "csv", "parquet")
_READERS = {"load_dataset", *(f"from_{kind}" for kind in _FILES)}
_SAME_ROWS = {"shuffle", "remove_columns", "select_columns", "with_format", "set_format", "flatten_indices", "cast"}
_CHANGES = {"map", "filter", "select", "take", "skip", "rename_column", "rename_columns", "add_column", "shard"}
_MUTATORS = {"update", "append", "extend", "insert", "pop", "remove", "setdefault", "clear", "sort", "reverse"}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_MOST_PARTS, _MOST_LETTERS, _LARGEST = 10_000, 10_000, 2**63  # a value of a real script is far smaller

Note = tuple[str, str]


def read_script(tree: ast.Module, trainers: Collection[str], wanted: str) -> tuple[str, dict[str, Any], list[Note]]:
    """(trainer, TRL's argument -> value, notes on what is known only when the script runs).

    trainers: the names that a trainer may have, such as dpo.
    wanted:   the trainer to read, if the script has several. If it is empty, the last one is read.
    A value that is not known is a placeholder such as `<learning_rate>`. Raises ConfigError if the script does not have
    the wanted trainer.
    """
    return _Script(tree, trainers).read(wanted)


class _Names:
    """What the names of a script stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.assigned: dict[str, list[ast.expr]] = defaultdict(list)
        self._unpacked: dict[str, list[ast.expr]] = defaultdict(list)  # `model, tokenizer = load()`
        self._bound: Counter[str] = Counter()
        self._changed: set[str] = set()
        for node in ast.walk(tree):
            self._add(node)
        self._parts = 0

    def _add(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if isinstance(target, ast.Name):
                        self.assigned[target.id].append(value)
                    elif isinstance(target, ast.Tuple | ast.List):
                        for name in (part.id for part in target.elts if isinstance(part, ast.Name)):
                            self._unpacked[name].append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self.assigned[name].append(value)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                self._bound[name] += 1
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                self._bound[name] += 1
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                self._changed.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in _MUTATORS:
                self._changed.add(name)

    def _once(self, name: str) -> ast.expr | None:
        """The expression of a name that is assigned once and not changed."""
        values = self.assigned[name]
        return values[0] if len(values) == self._bound[name] == 1 and name not in self._changed else None

    def expression(self, node: ast.expr) -> ast.expr:
        """The expression that a name stands for; other expressions as they are."""
        return (self._once(node.id) or node) if isinstance(node, ast.Name) else node

    def value(self, node: ast.expr) -> Any:
        """The value of an expression. Raises ValueError if it is known only when the script runs."""
        self._parts = 0
        return self._value(node, frozenset())

    def _value(self, node: ast.expr, above: frozenset[str]) -> Any:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ValueError("too long")
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name not in above and (once := self._once(name)) is not None:
                return self._value(once, above | {name})
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self._value(part, above) for part in parts]
            case ast.Dict(keys=keys, values=values):
                found: dict[Any, Any] = {}
                for key, part in zip(keys, values, strict=True):
                    inner = self._value(part, above)
                    found |= _mapping(inner) if key is None else {_text(self._value(key, above)): inner}
                return found
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
                return self._keywords(keywords, above)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                return _computed(type(sign), self._value(left, above), self._value(right, above))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self._value(operand, above))
            case ast.JoinedStr(values=parts):
                return _short("".join(str(self._value(part, above)) for part in parts))
            case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
                return self._value(inner, above)
            case ast.Subscript(value=whole, slice=key):
                return _entry(self._value(whole, above), self._value(key, above))
            case ast.Attribute(value=ast.Name(id="torch"), attr=attribute):
                return attribute  # torch.bfloat16
            case ast.Attribute(value=ast.Name(), attr=attribute) if attribute.isupper():
                return attribute.lower()  # SchedulerType.COSINE
        raise ValueError("computed when the script runs")

    def _keywords(self, keywords: list[ast.keyword], above: frozenset[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in keywords:
            value = self._value(keyword.value, above)
            found |= _mapping(value) if keyword.arg is None else {keyword.arg: value}
        return found

    def origins(self, node: ast.expr | None, seen: set[int] | None = None) -> Iterator[ast.Call | ast.Subscript]:
        """The calls and the `[...]` that an expression was made with. seen: expressions that were looked at before."""
        seen = set() if seen is None else seen
        if node is None or id(node) in seen:
            return
        seen.add(id(node))
        match node:
            case ast.Name(id=name):
                for value in self.assigned[name] + self._unpacked[name]:
                    yield from self.origins(value, seen)
            case ast.Call(func=func, args=args):
                yield node
                if isinstance(func, ast.Attribute):
                    yield from self.origins(func.value, seen)
                if args and _name(node) not in _CHANGES | _SAME_ROWS:  # `prepare(rows)`, `get_peft_model(model, ...)`
                    yield from self.origins(args[0], seen)
            case ast.List(elts=parts):
                for part in parts:
                    yield from self.origins(part, seen)
            case ast.Subscript(value=whole):
                yield node
                yield from self.origins(whole, seen)


class _Script:
    """One script, and what has been found in it."""

    def __init__(self, tree: ast.Module, trainers: Collection[str]) -> None:
        self.tree, self.trainers, self.names = tree, trainers, _Names(tree)
        self.calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        self.arguments: dict[str, Any] = {}
        self.notes: list[Note] = []

    def read(self, wanted: str) -> tuple[str, dict[str, Any], list[Note]]:
        kind, call = self._trainer(wanted)
        self._parsers()
        if kind:
            self._config(kind, call)
            self._model(kind, call)
            self._adapter(call)
            self._reward(kind, call)
        self._rows(call)
        return kind, self.arguments, self.notes

    # --- the trainer and its arguments -------------------------------------------------------------------------------

    def _trainer(self, wanted: str) -> tuple[str, ast.Call | None]:
        found: dict[str, ast.Call | None] = {}
        for call in self.calls:
            if kind := self._kind(call, "Trainer"):
                found[kind] = call
        for call in self.calls:
            if not found and (kind := self._kind(call, "Config")):
                found[kind] = None
        if wanted and found and wanted not in found:
            text = f"is not in the script, which has: {', '.join(found)}"
            raise ConfigError([Problem("trainer", wanted, text)], where="this command; nothing was written")
        kind = wanted or (list(found)[-1] if found else "")
        for other in found:
            if other != kind:
                self.notes.append((other, f"another training of the script; trainer={other} translates it"))
        return kind, found.get(kind)

    def _kind(self, call: ast.Call, ending: str) -> str:
        """The trainer that a call makes or configures: dpo of DPOTrainer(...)."""
        name = _name(call)
        kind = name.removesuffix(ending).lower()
        return kind if name.endswith(ending) and kind in self.trainers else ""

    def _parsers(self) -> None:
        for call in self.calls:
            if _name(call) in ("TrlParser", "HfArgumentParser"):
                text = "reads arguments from the command line; write them into a YAML file and import that"
                self.notes.append((_name(call), f"line {call.lineno}: {text}"))

    def _config(self, kind: str, trainer: ast.Call | None) -> None:
        older = [call for call in self.calls if _name(call) == "TrainingArguments"]  # of TRL before 0.12
        configs = [call for call in self.calls if self._kind(call, "Config") == kind] or older
        used = [c for c in self.names.origins(_argument(trainer, "args")) if isinstance(c, ast.Call) and c in configs]
        if configs and configs is older:
            self.arguments["learning_rate"] = 5e-5  # the default there
        for call in used[:1] or configs[:1]:
            self._take(call)
            for name, value in self._set_later(call):
                self._put(name, value)
        for call in self.calls:
            if _name(call) in ("ModelConfig", "ScriptArguments"):
                self._take(call)

        for argument, value in self._keyword_arguments(trainer) if trainer else ():
            if argument in _OBJECTS:
                self.arguments[argument] = True
            elif argument not in _OF_TRAINER:
                self._put(argument, value)

    def _set_later(self, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
        """(argument, value) of assignments such as `args.max_steps = 10` below the call."""
        names = {name for name, values in self.names.assigned.items() if call in values}
        for node in ast.walk(self.tree):
            match node:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr=argument)], value=value):
                    if name in names:
                        yield argument, value

    def _take(self, call: ast.Call, names: dict[str, str] | None = None) -> None:
        """Take the keyword arguments of a call. names: argument -> the name under which it is kept."""
        for argument, value in self._keyword_arguments(call):
            self._put((names or {}).get(argument, argument), value)

    def _keyword_arguments(self, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
        """(argument, value), those that a known dict adds with ** included."""
        for keyword in call.keywords:
            if keyword.arg:
                yield keyword.arg, keyword.value
                continue
            match self.names.expression(keyword.value):
                case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
                    yield from (
                        (str(getattr(key, "value", "")), value) for key, value in zip(keys, values, strict=True)
                    )
                case ast.Call(func=ast.Name(id="dict"), args=[]) as inner:
                    yield from self._keyword_arguments(inner)
                case _:
                    text = f"line {call.lineno}: ** adds arguments that are known only when the script runs"
                    self.notes.append((_name(call), text))

    def _put(self, name: str, node: ast.expr) -> None:
        try:
            self.arguments[name] = self.names.value(node)
        except ValueError:
            self._note(name, node)
            self.arguments[name] = f"<{name}>"  # to be filled in

    def _note(self, name: str, node: ast.expr) -> None:
        self.notes.append((name, f"line {node.lineno}: computed when the script runs: {ast.unparse(node)[:80]}"))

    # --- weights -----------------------------------------------------------------------------------------------------

    def _model(self, kind: str, trainer: ast.Call | None) -> None:
        given = _argument(trainer, "model", 0)
        loads = [call for call in self.names.origins(given) if _name(call) == "from_pretrained"]
        if not loads and given is not None:
            try:
                self.arguments["model_name_or_path"] = _text(self.names.value(given))
                return
            except ValueError:
                pass
        loads = loads or [c for c in self.calls if _name(c) == "from_pretrained" and "AutoModel" in ast.unparse(c.func)]
        if loads and isinstance(loads[0], ast.Call):
            self._load(loads[0])
        elif given is not None:
            self._put("model_name_or_path", given)
        if kind in _WITH_REFERENCE:
            self._reference(_argument(trainer, "ref_model", 1))

    def _load(self, call: ast.Call) -> None:
        if (name := _weights(call)) is not None:
            self._put("model_name_or_path", name)
        for argument, value in self._keyword_arguments(call):
            if argument == "quantization_config":
                for made in self.names.origins(value):
                    if isinstance(made, ast.Call):
                        self._take(made)
            elif argument not in _PLACEMENT and argument not in ("pretrained_model_name_or_path", "model_name"):
                self._put(_MODEL.get(argument, argument), value)

    def _reference(self, given: ast.expr | None) -> None:
        if given is None or (isinstance(given, ast.Constant) and given.value is None):
            return
        loads = [c for c in self.names.origins(given) if isinstance(c, ast.Call) and _name(c) == "from_pretrained"]
        name = _weights(loads[0]) if loads else None
        try:
            same = name is not None and self.names.value(name) == self.arguments.get("model_name_or_path")
        except ValueError:
            same = False
        if not same:
            text = f"line {given.lineno}: {ast.unparse(given)[:80]}; the reference here is the policy before training"
            self.notes.append(("ref_model", text))

    def _adapter(self, trainer: ast.Call | None) -> None:
        given = [call for call in self.names.origins(_argument(trainer, "peft_config")) if _name(call) == "LoraConfig"]
        named = [call for call in self.calls if _name(call) in ("LoraConfig", "get_peft_model")]
        anywhere = [call for call in named if _name(call) == "LoraConfig" or _argument(call, "r") is not None]
        for call in (given or anywhere)[:1]:
            if isinstance(call, ast.Call):
                self.arguments |= {**_LORA_DEFAULTS, "use_peft": True}
                self._take(call, _LORA)

    def _reward(self, kind: str, trainer: ast.Call | None) -> None:
        given = _argument(trainer, "reward_funcs", 1) if kind in _WITH_REWARDS else None
        if given is None:
            return
        parts = given.elts if isinstance(given, ast.List | ast.Tuple) else [given]
        found = []
        for part in parts:
            try:
                found.append(_text(self.names.value(part)))
            except ValueError:
                self.notes.append(("reward_funcs", f"line {part.lineno}: {ast.unparse(part)[:80]}"))
        if len(found) == len(parts) == 1:
            self.arguments["reward_model_name_or_path"] = found[0]
        else:
            self.notes += [("reward_funcs", f"the reward model {name}") for name in found]

    # --- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, trainer: ast.Call | None) -> None:
        if "dataset_name" in self.arguments:
            return
        sides = ("train_dataset", "eval_dataset")
        train, held_out = (list(self.names.origins(_argument(trainer, side))) for side in sides)
        read = _first_reader(train) or _first_reader(self.calls)
        if read is None:
            if (given := _argument(trainer, "train_dataset")) is not None:
                self._note("train_dataset", given)
            return
        path, split = self._source(read, self._key(train))
        self.arguments["dataset_name"] = path
        if split:
            self.arguments["dataset_train_split"] = split
        self._held_out(held_out, path)
        self._changes(train, held_out)

    def _source(self, call: ast.Call, key: str) -> tuple[Any, str]:
        """(file, files, folder or hub name, split) that a call of load_dataset reads. key: as in `rows["train"]`."""
        if _name(call) != "load_dataset":  # Dataset.from_json("rows.jsonl")
            return self._known("dataset_name", _argument(call, "path_or_paths", 0)), ""
        path = self._known("dataset_name", _argument(call, "path", 0))
        split = self._known("dataset_train_split", _argument(call, "split")) or key
        files = self._known("data_files", _argument(call, "data_files"))
        if path in _FILES:
            chosen = split.partition("[")[0] or "train"
            if "[" in split:
                text = f"line {call.lineno}: {split} of a file has no counterpart; data.train_limit takes fewer rows"
                self.notes.append(("split", text))
            path = files.get(chosen) if isinstance(files, dict) else files
            return path or "<file, folder or hub name>", ""
        if files:
            text = f"line {call.lineno}: has no counterpart for a hub name; download the file"
            self.notes.append(("data_files", text))
        if subset := self._known("dataset_config", _argument(call, "name", 1)):
            self.arguments["dataset_config"] = subset
        if folder := self._known("data_dir", _argument(call, "data_dir")):
            self.arguments["data_dir"] = folder
        return path, "" if split == "train" else split

    def _held_out(self, origins: list[ast.Call | ast.Subscript], train: Any) -> None:
        """What is known about the held-out rows."""
        parted = [call for call in origins if _name(call) == "train_test_split"]
        read = _first_reader(origins)
        if parted and isinstance(parted[0], ast.Call):
            size = self._known("test_size", _argument(parted[0], "test_size", 0))
            if isinstance(size, float):
                self.arguments["dataset_test_size"] = size
        elif read is not None:
            path, split = self._source(read, self._key(origins))
            if path != train:
                self.arguments["eval_dataset_name"] = path
            if split:
                self.arguments["dataset_test_split"] = split

    def _key(self, origins: list[ast.Call | ast.Subscript]) -> str:
        """The split that `[...]` takes from a data set, unless train_test_split made it."""
        if any(_name(call) == "train_test_split" for call in origins):
            return ""
        for part in origins:
            match part:
                case ast.Subscript(slice=ast.Constant(value=str() as key)):
                    return key
        return ""

    def _changes(self, *sides: list[ast.Call | ast.Subscript]) -> None:
        """Note the calls that change rows. `select(range(n))` becomes a limit."""
        known = _READERS | _SAME_ROWS | {"train_test_split"}
        found = {id(c): c for side in sides for c in side if isinstance(c, ast.Call) and _name(c) not in known}
        for call in self.calls:
            if _name(call) in _CHANGES and _first_reader(list(self.names.origins(call))):
                found[id(call)] = call
        for call in sorted(found.values(), key=lambda call: call.lineno):
            limit = self._range(call)
            if limit and call in sides[0]:
                self.arguments["dataset_limit"] = limit
                self.notes.append(("select", f"line {call.lineno}: data.train_limit takes rows at equal distances"))
            else:
                text = "the script changes the rows; write them with to_json(...) and give that file as data.path"
                self.notes.append((_name(call), f"line {call.lineno}: {text}"))

    def _range(self, call: ast.Call) -> int:
        """n of `select(range(n))`, else 0."""
        match call:
            case ast.Call(func=ast.Attribute(attr="select"), args=[ast.Call(func=ast.Name(id="range"), args=[last])]):
                found = self._known("select", last)
                return found if isinstance(found, int) else 0
        return 0

    def _known(self, name: str, node: ast.expr | None) -> Any:
        """The value of an argument. Notes one that is computed, and returns its placeholder."""
        if node is None:
            return ""
        try:
            return self.names.value(node)
        except ValueError:
            self._note(name, node)
            return f"<{name}>"


def _name(call: ast.AST) -> str:
    """The last part of the name of what is called: `load_dataset` of `datasets.load_dataset(...)`."""
    func = call.func if isinstance(call, ast.Call) else None
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def _argument(call: ast.Call | None, name: str, position: int | None = None) -> ast.expr | None:
    if call is None:
        return None
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[position] if position is not None and position < len(call.args) else None


def _weights(call: ast.Call) -> ast.expr | None:
    """The name of what from_pretrained loads."""
    return _argument(call, "pretrained_model_name_or_path", 0) or _argument(call, "model_name")


def _first_reader(origins: list[Any]) -> ast.Call | None:
    return next((call for call in origins if _name(call) in _READERS), None)


def _computed(sign: type[ast.operator], left: Any, right: Any) -> Any:
    """A sum of two texts, or a result of two numbers."""
    if isinstance(left, str) and isinstance(right, str) and sign is ast.Add:
        return _short(left + right)
    try:
        return _number(_OPERATORS[sign](_number(left), _number(right)))
    except ArithmeticError as error:
        raise ValueError(str(error)) from error


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise ValueError("not a number of usual size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _short(text: str) -> str:
    if len(text) > _MOST_LETTERS:
        raise ValueError("too long")
    return text


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _entry(whole: Any, key: Any) -> Any:
    try:
        return whole[key]
    except (LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
