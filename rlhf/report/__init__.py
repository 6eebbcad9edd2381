"""What a run shows to people: figures, a self-contained HTML report and the exported adapter's model card. No torch.

`record`       reads a run directory, tolerant of stages that have not run
`words`        numbers, intervals and verdicts as text; whose judgement a judge is
`theme`        colours and type, light and dark
`figures`      charts as functions of plain rows, and files of them
`html`         `report.html`
`model_card`   the adapter's README.md
"""
